"""A task that is replaced by a chord, a group or a chain which fails before its last task.

Celery ends the body of the chord and the rest of the chain in its result backend; no message of them is sent.
"""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Dead, Retry
from orchestrator.sending.delivery import Delivery
from tests.apps import agents_app as app
from tests.support.agent_sends import WAIT_S
from tests.support.agents_cluster import hosted
from tests.support.cluster import NO_REDIS, Cluster
from tests.support.eventually import eventually

RETRY = Retry(max_retries=1, backoff=app.SOON)

BEFORE_ITS_LAST_TASK = (
    "failing chord",
    "failing group",
    "failing chunks",
    "failing chain",
    "group in a chain",
    "chord in a chain",
)


def _send(cluster: Cluster, kind: str, link_error: Any = None) -> Delivery:
    replaced = cluster.orchestrator.app.tasks["plain.replaced"].s(20, 22, kind)
    if link_error is not None:
        replaced.link_error(link_error)
    delivery: Delivery = cluster.orchestrator.send(replaced, retry=RETRY)
    return delivery


def _only_letter(cluster: Cluster, delivery: Delivery) -> Any:
    cluster.idle()
    [letter] = [letter for letter in cluster.orchestrator.dead_letters.list() if letter.delivery_id == delivery.id]
    return letter


@pytest.mark.parametrize("kind", BEFORE_ITS_LAST_TASK)
def test_the_delivery_ends_where_celery_ends_the_replacement(workers: Cluster, kind: str) -> None:
    name = f"{workers.url}:{kind}"
    delivery = _send(workers, kind, workers.orchestrator.app.tasks["plain.noted"].si("failed", name))
    outcome = delivery.wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert outcome.error.startswith("ReplacementFailed: what replaced plain.replaced failed before its last task: ")
    assert ("TypeError" if kind == "failing chunks" else "ValueError") in outcome.error
    letter = _only_letter(workers, delivery)
    assert (letter.id, letter.error_type) == (outcome.letter_id, "ReplacementFailed")
    celerys = workers.orchestrator.app.AsyncResult(delivery.id)
    assert (celerys.state, type(celerys.result).__name__ == "ReplacementFailed") == ("FAILURE", False)
    assert eventually(lambda: workers.redis.lrange(f"test:noted:{name}", 0, -1) == [b"failed"], describe=workers.log)


@pytest.mark.parametrize("kind", ["failing body", "failing last"])
def test_a_failure_of_its_last_task_is_one_dead_letter(workers: Cluster, kind: str) -> None:
    delivery = _send(workers, kind)
    outcome = delivery.wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert (outcome.error, outcome.attempts) == ("ValueError: 20", 2)
    assert _only_letter(workers, delivery).id == outcome.letter_id


@pytest.mark.parametrize("kind", [*BEFORE_ITS_LAST_TASK, "failing body", "failing last"])
def test_in_eager_mode_the_attempt_fails_with_what_replaces_it(kind: str) -> None:
    eager = app.make(NO_REDIS, eager=True)
    # Celery's chords need one, in eager mode too.
    eager.app.conf.result_backend = "cache+memory://"
    delivery = eager.send(eager.app.tasks["plain.replaced"].s(20, 22, kind), retry=RETRY)
    outcome = delivery.wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert ("TypeError" if kind == "failing chunks" else "ValueError: 20") in outcome.error
    assert eager.dead_letters.count() == 1


@pytest.mark.parametrize(("kind", "errback_calls"), [("failing chain", b"2"), ("failing chord", b"1")])
def test_a_worker_that_is_killed_after_it_has_ended_the_delivery_ends_it_once(kind: str, errback_calls: bytes) -> None:
    with hosted() as cluster:
        # An errback of the sender, which Celery calls after ours.
        killer = cluster.orchestrator.app.tasks["plain.kills_its_worker_once"]
        delivery = _send(cluster, kind, killer.s())
        worker = cluster.worker
        assert worker is not None
        eventually(lambda: not worker.is_running, describe=cluster.log)
        worker.kill()
        worker.start()
        outcome = delivery.wait(timeout_s=2 * WAIT_S)
        assert isinstance(outcome, Dead)
        eventually(lambda: cluster.redis.get("test:kills") == errback_calls, describe=cluster.log)
        assert _only_letter(cluster, delivery).id == outcome.letter_id
