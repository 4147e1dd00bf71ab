"""Outcomes of an agent's messages that only a real worker can have."""

from __future__ import annotations

import signal
from datetime import datetime
from typing import Any

import pytest

from orchestrator import Cancelled, CancelResult, Dead, Expired, Exponential, Handled, Retry, Status
from orchestrator.core.errors import DeliveryTimeout
from tests.apps import agents_app as app
from tests.support.agent_sends import WAIT_S, changes, now_s, purge
from tests.support.agents_cluster import hosted
from tests.support.cluster import Cluster
from tests.support.eventually import eventually


def test_what_is_not_tracked_is_counted_all_the_same(redis_cluster: Cluster) -> None:
    before = redis_cluster.row()
    delivery = redis_cluster.orchestrator.send("worker", app.Add(a=1, b=2), track=False)
    broken = redis_cluster.orchestrator.send("worker", app.Broken(), track=False)
    redis_cluster.idle()
    assert changes(before, redis_cluster.row()) == {"accepted": 2, "handled": 1, "dead": 1, "retried": 2}
    assert delivery.outcome() is None
    assert broken.outcome() is None


def test_who_does_not_want_to_wait_longer_is_told_that_it_is_pending(redis_cluster: Cluster) -> None:
    delivery = redis_cluster.orchestrator.send("worker", app.Hold(name="patience"))
    with pytest.raises(DeliveryTimeout, match=r"has no recorded outcome after 0.05 s"):
        delivery.wait(timeout_s=0.05)
    assert delivery.outcome() is None
    redis_cluster.redis.rpush("test:go:patience", "1")
    assert delivery.wait(timeout_s=WAIT_S) == Handled("patience", 1)


def test_a_retry_waits_its_pause_in_redis_not_in_a_worker(redis_cluster: Cluster) -> None:
    pause = Retry(max_retries=1, backoff=Exponential(initial_s=3600, cap_s=3600, jitter=0))
    before = redis_cluster.row()
    delivery = redis_cluster.orchestrator.send("worker", app.Broken(), retry=pause)
    eventually(lambda: redis_cluster.row().delayed == 1, describe=redis_cluster.log)
    row = redis_cluster.row()
    assert (row.held, row.ready, row.pending) == (0, 0, 1)
    assert changes(before, row) == {"accepted": 1, "retried": 1}
    delayed: Any = redis_cluster.redis.zrange(redis_cluster.keys.delayed("worker"), 0, -1, withscores=True)
    ((_, due_ms),) = delayed
    assert 3590 < float(due_ms) / 1000 - now_s(redis_cluster) <= 3600
    assert delivery.outcome() is None


def test_purged_messages_are_counted_as_cancelled(redis_cluster: Cluster) -> None:
    before = redis_cluster.row()
    redis_cluster.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=3600)
    purge(redis_cluster)
    assert changes(before, redis_cluster.row()) == {"accepted": 1, "cancelled": 1}
    assert redis_cluster.row().balanced


def test_the_sender_of_a_purged_message_is_told(redis_cluster: Cluster) -> None:
    delivery = redis_cluster.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=3600)
    purge(redis_cluster)
    assert isinstance(delivery.outcome(), Cancelled)


def let_an_hour_pass(cluster: Cluster) -> None:
    """Have all that waits for its time be due now."""
    key = cluster.keys.delayed("worker")
    waiting: Any = cluster.redis.zrange(key, 0, -1)
    cluster.redis.zadd(key, dict.fromkeys(waiting, 1), xx=True)


def test_a_countdown_waits_in_redis(redis_cluster: Cluster) -> None:
    delivery = redis_cluster.orchestrator.send("worker", app.Add(a=2, b=2), countdown_s=3600)
    assert redis_cluster.row().delayed == 1
    let_an_hour_pass(redis_cluster)
    assert delivery.wait(timeout_s=WAIT_S) == Handled(4, 1)


def test_an_expired_message_is_counted_and_its_sender_is_told(redis_cluster: Cluster) -> None:
    before = redis_cluster.row()
    blockers = [redis_cluster.orchestrator.send("worker", app.Hold(name="expiry")) for _ in range(2)]
    delivery = redis_cluster.orchestrator.send("worker", app.Add(a=1, b=2), expires_s=0.05)
    sent_at_s = now_s(redis_cluster)
    eventually(lambda: now_s(redis_cluster) > sent_at_s + 0.1)
    redis_cluster.redis.rpush("test:go:expiry", "1", "2")
    redis_cluster.idle()
    assert changes(before, redis_cluster.row()) == {"accepted": 3, "handled": 2, "expired": 1}
    assert [blocker.wait(timeout_s=WAIT_S) for blocker in blockers] == [Handled("expiry", 1)] * 2
    assert delivery.wait(timeout_s=2) == Expired()


def test_a_revoked_message_is_counted_and_its_sender_is_told(redis_cluster: Cluster) -> None:
    before = redis_cluster.row()
    delivery = redis_cluster.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=3600)
    assert redis_cluster.orchestrator.app.control.revoke(delivery.id, reply=True, limit=1, timeout=20)
    let_an_hour_pass(redis_cluster)
    redis_cluster.idle()
    assert changes(before, redis_cluster.row()) == {"accepted": 1, "cancelled": 1}
    assert isinstance(delivery.wait(timeout_s=2), Cancelled)


def test_a_hard_time_limit_is_a_timeout_and_is_tried_again() -> None:
    with hosted("prefork") as cluster:
        limited = cluster.orchestrator.app.tasks["plain.limited"]
        delivery = cluster.orchestrator.send(limited.s("never"), retry=Retry(max_retries=1, backoff=app.SOON))
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("timeout", 2)
        letter = cluster.orchestrator.dead_letters.get(str(outcome.letter_id))
        assert [failure.type for failure in letter.failures] == ["TimeLimitExceeded"] * 2
        (row,) = [row for row in cluster.idle() if row.accepted]
        assert (row.accepted, row.dead, row.retried, row.restarted, row.lost) == (1, 1, 1, 0, 0)


def test_a_deadline_leaves_the_workers_own_time_limit_in_force() -> None:
    environment = {"ORCHESTRATOR_TIMEOUTS": '{"worker.Hurried": 0.5}'}
    with hosted("prefork", concurrency=1, arguments=("--time-limit=1",), environment=environment) as cluster:
        delivery = cluster.orchestrator.send("worker", app.Hold(name="h"), retry=Retry(max_retries=0), deadline_s=30)
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.error.partition(":")[0]) == ("timeout", "TimeLimitExceeded")


def test_what_was_cancelled_too_late_runs_when_its_letter_is_replayed() -> None:
    with hosted("threads") as cluster:
        delivery = cluster.orchestrator.send("worker", app.HoldAndFail(name="c"), retry=Retry(max_retries=0))
        eventually(lambda: delivery.status() is Status.RUNNING, describe=cluster.log)
        assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
        cluster.redis.rpush("test:go:c", "1")
        assert isinstance(delivery.wait(timeout_s=WAIT_S), Dead)
        cluster.redis.rpush("test:go:c", "1")
        (letter,) = cluster.orchestrator.dead_letters.list()
        cluster.orchestrator.dead_letters.replay(letter.id)
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert outcome.reason == "retries exhausted"


def test_the_history_of_what_ended_in_a_worker_has_the_deaths_on_the_way() -> None:
    with hosted("prefork", concurrency=1) as cluster:
        retry = Retry(max_retries=1, backoff=app.SOON)
        handled = cluster.orchestrator.send("worker", app.Deadly(name="h", lives="kfk."), retry=retry)
        assert handled.wait(timeout_s=WAIT_S) == Handled(None, 2)
        died, failed = "its pool process died: killed", "ConnectionError: a life"
        expected = [(1, died), (2, failed), (3, died), (4, "handled")]
        assert [(a.number, a.how) for a in handled.history()] == expected
        dead = cluster.orchestrator.send("worker", app.Deadly(name="d", lives="kff"), retry=retry)
        assert isinstance(dead.wait(timeout_s=WAIT_S), Dead)
        assert [(a.number, a.how) for a in dead.history()] == [(1, died), (2, failed), (3, failed)]


def test_a_handler_that_kills_its_process_is_dead_lettered_with_its_history_and_its_neighbours_are_not_blamed() -> None:
    with hosted("prefork", concurrency=1, arguments=("--prefetch-multiplier=10",)) as cluster:
        deadly = cluster.orchestrator.send("worker", app.Deadly(name="d"), metadata={"job": 1})
        neighbours = [cluster.orchestrator.send("worker", app.WhoAmI()) for _ in range(5)]
        outcome = deadly.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("poison", 3)
        attempts = deadly.history()
        assert [(a.number, a.how) for a in attempts] == [(n, "its pool process died: killed") for n in (1, 2, 3)]
        assert all(a.worker and datetime.fromisoformat(a.ended_at).tzinfo for a in attempts)
        letter = cluster.orchestrator.dead_letters.get(str(outcome.letter_id))
        assert (letter.reason, letter.attempts, dict(letter.metadata)) == ("poison", 3, {"job": 1})
        assert [death["reason"] for death in letter.deaths] == ["killed"] * 3
        assert all(death["by"] and death["at"] for death in letter.deaths)
        runs = [entry.split() for entry in cluster.redis.lrange("test:ran:d", 0, -1)]
        assert len({pid for pid, _, _ in runs}) == 3
        assert [redelivered for _, _, redelivered in runs] == [b"False", b"True", b"True"]
        for neighbour in neighbours:
            handled = neighbour.wait(timeout_s=WAIT_S)
            assert isinstance(handled, Handled)
            assert (handled.attempts, handled.result["attempt"], handled.result["redelivered"]) == (1, 1, False)
        (row,) = [row for row in cluster.idle() if row.accepted]
        assert (row.accepted, row.handled, row.dead, row.restarted, row.duplicated) == (6, 5, 1, 2, 0)
        assert row.balanced
        assert cluster.worker.is_running


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_handler_that_leaves_the_interpreter_does_not_take_its_worker_along(pool: str) -> None:
    with hosted(pool) as cluster:
        delivery = cluster.orchestrator.send("worker", app.Broken(text="exit"))
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        # No worker has died, and nothing says so.
        assert (outcome.reason, outcome.error) == ("poison", "it raised SystemExit (sys.exit) 3 times")
        assert [attempt.how for attempt in delivery.history()] == ["it raised SystemExit (sys.exit)"] * 3
        assert cluster.orchestrator.send("worker", app.Add(a=1, b=2)).wait(timeout_s=WAIT_S) == Handled(3, 1)
        assert cluster.worker.is_running
        assert all(row.balanced for row in cluster.idle())


def test_a_worker_that_is_told_to_stop_finishes_what_it_runs_and_requeues_the_rest() -> None:
    with hosted("threads", concurrency=1, arguments=("--prefetch-multiplier=4",)) as cluster:
        running = cluster.orchestrator.send("worker", app.Hold(name="last"))
        waiting = [cluster.orchestrator.send("worker", app.Add(a=n, b=0)) for n in range(3)]
        eventually(lambda: cluster.row().held > 1, describe=cluster.log)
        cluster.worker.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in cluster.log(), describe=cluster.log)
        cluster.redis.rpush("test:go:last", "1")
        assert running.wait(timeout_s=WAIT_S) == Handled("last", 1)
        eventually(lambda: not cluster.worker or not cluster.worker.is_running, describe=cluster.log)
        row = cluster.row()
        assert (row.handled + row.ready, row.held, row.restarted, row.lost) == (4, 0, 0, 0)
        cluster.worker.start()
        assert [delivery.wait(timeout_s=WAIT_S) for delivery in waiting] == [Handled(n, 1) for n in range(3)]
