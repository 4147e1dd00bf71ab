"""An existing Celery app under an Orchestrator goes on working: canvas, retries, results, limits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain, chord, group, states
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from orchestrator.sending.ledger import total
from tests.support.agents_cluster import hosted
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.scheduled_messages import fall_due

WAIT_S = 20


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with hosted(request.param, concurrency=2 if request.param != "solo" else 1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _balanced(cluster: Cluster) -> Iterator[None]:
    """After every test nothing is pending, nothing is lost and nothing was done twice."""
    yield
    rows = cluster.idle()
    assert all(row.balanced for row in rows), rows
    assert total(rows).duplicated == 0
    assert total(rows).redelivered == 0


@pytest.fixture
def tasks(cluster: Cluster) -> Any:
    return cluster.orchestrator.app.tasks


def get(result: AsyncResult) -> Any:
    return result.get(timeout=WAIT_S)


def began(cluster: Cluster, name: str, count: int = 1) -> None:
    eventually(lambda: int(cluster.redis.get(f"test:began:{name}") or 0) >= count, describe=cluster.log)


def test_a_task_has_its_result_and_its_state(cluster: Cluster, tasks: Any) -> None:
    result = tasks["plain.add"].delay(1, 2)
    assert get(result) == 3
    assert (result.state, result.successful()) == (states.SUCCESS, True)


def test_a_bound_task_is_bound(tasks: Any) -> None:
    assert get(tasks["plain.bound"].delay()) == "plain.bound"


def test_a_chain_hands_on(tasks: Any) -> None:
    add = tasks["plain.add"]
    assert get(chain(add.s(1, 2), add.s(3), add.s(4))()) == 10


def test_a_group_is_as_many_results(tasks: Any) -> None:
    assert get(group(tasks["plain.add"].s(n, n) for n in range(10))()) == [n * 2 for n in range(10)]


def test_a_chord_waits_for_its_header(tasks: Any) -> None:
    header = [tasks["plain.add"].s(n, 1) for n in range(10)]
    assert get(chord(header)(tasks["plain.total"].s())) == sum(range(1, 11))


def test_a_chain_of_groups_is_a_chord(tasks: Any) -> None:
    add, total_of = tasks["plain.add"], tasks["plain.total"]
    assert get((group(add.s(1, 1), add.s(2, 2)) | total_of.s() | add.s(4))()) == 10


def test_a_chord_whose_header_fails_fails(cluster: Cluster, tasks: Any) -> None:
    before = cluster.orchestrator.dead_letters.count()
    result = chord([tasks["plain.add"].s(1, 1), tasks["plain.fail"].s("header")])(tasks["plain.total"].s())
    with pytest.raises(Exception, match="header"):
        get(result)
    cluster.idle()
    assert cluster.orchestrator.dead_letters.count() == before + 1


def test_callbacks_and_errbacks_are_called(cluster: Cluster, tasks: Any) -> None:
    add = tasks["plain.add"]
    linked = add.apply_async((1, 2), link=add.s(10))
    assert get(linked) == 3
    eventually(lambda: linked.children)
    assert get(linked.children[0]) == 13


def test_celerys_own_retry_goes_on_working(tasks: Any) -> None:
    assert get(tasks["plain.again"].delay(2)) == 2


def test_celerys_own_retry_that_gives_up_is_a_dead_letter(cluster: Cluster, tasks: Any) -> None:
    result = tasks["plain.again"].delay(9)
    with pytest.raises(ValueError, match="again"):
        get(result)
    cluster.idle()
    (letter, *_) = cluster.orchestrator.dead_letters.list()
    assert (letter.task, letter.error_type) == ("plain.again", "ValueError")


def test_a_base_class_of_the_users_own_is_used(cluster: Cluster, tasks: Any) -> None:
    before = int(cluster.redis.get("test:on_success") or 0)
    assert get(tasks["plain.counted"].delay(1, 2)) == 3
    assert eventually(lambda: int(cluster.redis.get("test:on_success") or 0) == before + 1)


def test_a_task_that_fails_is_a_failure_for_celery_and_a_dead_letter_for_us(cluster: Cluster, tasks: Any) -> None:
    result = tasks["plain.fail"].delay("no")
    with pytest.raises(ValueError, match="no"):
        get(result)
    assert result.state == states.FAILURE
    cluster.idle()
    (letter, *_) = cluster.orchestrator.dead_letters.list()
    assert (letter.task, letter.delivery_id, letter.queue) == ("plain.fail", result.id, "celery")
    assert (letter.error_type, letter.error_message, letter.attempts) == ("ValueError", "no", 1)
    assert "raise ValueError(text)" in letter.failures[0].traceback
    assert letter.body() == [["no"], {}]
    assert letter.agent == ""


def test_a_dead_letter_of_a_plain_task_can_be_replayed(cluster: Cluster, tasks: Any) -> None:
    tasks["plain.fail"].delay("once more")
    cluster.idle()
    (letter, *_) = cluster.orchestrator.dead_letters.list()
    again = cluster.letter_after(lambda: cluster.orchestrator.dead_letters.replay(letter.id))
    assert (again.task, again.delivery_id) == (letter.task, letter.delivery_id)


def test_a_countdown_waits_in_redis_and_an_eta_too(cluster: Cluster, tasks: Any) -> None:
    results = [
        tasks["plain.add"].apply_async((1, 1), countdown=60),
        tasks["plain.add"].apply_async((1, 1), eta=datetime.now(UTC) + timedelta(seconds=60)),
    ]
    assert next(row for row in cluster.orchestrator.ledger() if row.queue == "celery").delayed == 2
    fall_due(cluster.redis, cluster.keys, "celery")
    assert [get(result) for result in results] == [2, 2]


def test_an_expired_task_is_revoked_and_counted(cluster: Cluster, tasks: Any) -> None:
    before = total(cluster.idle())
    result = tasks["plain.add"].apply_async((1, 2), expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError):
        get(result)
    after = total(cluster.idle())
    assert (after.expired - before.expired, after.handled - before.handled) == (1, 0)


def test_a_task_revoked_before_it_starts_does_not_start(cluster: Cluster, tasks: Any) -> None:
    before = total(cluster.idle())
    result = tasks["plain.add"].apply_async((1, 2), countdown=60)
    assert cluster.orchestrator.app.control.revoke(result.id, reply=True, limit=1, timeout=WAIT_S), cluster.log()
    fall_due(cluster.redis, cluster.keys, "celery")
    with pytest.raises(TaskRevokedError):
        get(result)
    after = total(cluster.idle())
    assert (after.cancelled - before.cancelled, after.handled - before.handled) == (1, 0)


def test_a_task_terminated_while_it_runs_is_cancelled_and_runs_no_more(cluster: Cluster, tasks: Any) -> None:
    if "prefork" not in cluster.log():
        pytest.skip("only prefork can terminate what runs")
    before = total(cluster.idle())
    result = tasks["plain.hold"].delay("terminated")
    began(cluster, "terminated")
    cluster.orchestrator.app.control.revoke(result.id, terminate=True, signal="SIGKILL", reply=True, limit=1, timeout=5)
    with pytest.raises(TaskRevokedError):
        get(result)
    after = total(cluster.idle())
    assert (after.cancelled - before.cancelled, after.restarted - before.restarted) == (1, 0)
    assert cluster.redis.get("test:began:terminated") == b"1"
    assert get(tasks["plain.add"].delay(1, 2)) == 3


def test_a_hard_time_limit_is_a_failure_and_a_dead_letter(cluster: Cluster, tasks: Any) -> None:
    if "prefork" not in cluster.log():
        pytest.skip("only prefork can terminate what runs")
    result = tasks["plain.limited"].delay("limited")
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        get(result)
    cluster.idle()
    (letter, *_) = cluster.orchestrator.dead_letters.list()
    assert (letter.task, letter.reason) == ("plain.limited", "timeout")


def test_an_unknown_task_is_a_dead_letter_and_a_failure(cluster: Cluster) -> None:
    result = cluster.orchestrator.app.send_task("plain.nobody_knows")
    cluster.idle()
    (letter, *_) = cluster.orchestrator.dead_letters.list()
    assert (letter.task, letter.reason, letter.delivery_id) == ("plain.nobody_knows", "unknown task", result.id)
    eventually(lambda: result.state == states.FAILURE)


def test_inspect_and_ping_answer(cluster: Cluster) -> None:
    inspect = cluster.orchestrator.app.control.inspect(timeout=WAIT_S, limit=1)
    (node,) = inspect.ping()
    assert "plain.add" in inspect.registered()[node]
    assert {queue["name"] for queue in inspect.active_queues()[node]} >= {"worker", "celery"}


def test_many_tasks_of_all_kinds_at_once(cluster: Cluster, tasks: Any) -> None:
    before = total(cluster.idle())
    adds = [tasks["plain.add"].delay(n, 0) for n in range(100)]
    fails = [tasks["plain.fail"].delay(str(n)) for n in range(20)]
    soon = [tasks["plain.add"].apply_async((n, 0), countdown=0.05) for n in range(20)]
    assert [get(result) for result in (*adds, *soon)] == [*range(100), *range(20)]
    after = total(cluster.idle())
    assert after.handled - before.handled == 120
    assert after.dead - before.dead == 20
    assert all(result.state == states.FAILURE for result in fails)
