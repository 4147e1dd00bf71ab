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


def test_what_is_not_tracked_is_counted_all_the_same(real: Cluster) -> None:
    before = real.row()
    delivery = real.orchestrator.send("worker", app.Add(a=1, b=2), track=False)
    broken = real.orchestrator.send("worker", app.Broken(), track=False)
    real.idle()
    assert changes(before, real.row()) == {"accepted": 2, "handled": 1, "dead": 1, "retried": 2}
    assert delivery.outcome() is None
    assert broken.outcome() is None


def test_who_does_not_want_to_wait_longer_is_told_that_it_is_pending(real: Cluster) -> None:
    delivery = real.orchestrator.send("worker", app.Hold(name="patience"))
    with pytest.raises(DeliveryTimeout, match=r"has no recorded outcome after 0.05 s"):
        delivery.wait(timeout_s=0.05)
    assert delivery.outcome() is None
    real.redis.rpush("test:go:patience", "1")
    assert delivery.wait(timeout_s=WAIT_S) == Handled("patience", 1)


def test_a_retry_waits_its_pause_in_redis_not_in_a_worker(real: Cluster) -> None:
    pause = Retry(max_retries=1, backoff=Exponential(initial_s=3600, cap_s=3600, jitter=0))
    before = real.row()
    delivery = real.orchestrator.send("worker", app.Broken(), retry=pause)
    eventually(lambda: real.row().delayed == 1, describe=real.log)
    row = real.row()
    assert (row.held, row.ready, row.pending) == (0, 0, 1)
    assert changes(before, row) == {"accepted": 1, "retried": 1}
    delayed: Any = real.redis.zrange(real.keys.delayed("worker"), 0, -1, withscores=True)
    ((_, due_ms),) = delayed
    assert 3590 < float(due_ms) / 1000 - now_s(real) <= 3600
    assert delivery.outcome() is None


def test_purged_messages_are_counted_as_cancelled(real: Cluster) -> None:
    before = real.row()
    real.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=3600)
    purge(real)
    assert changes(before, real.row()) == {"accepted": 1, "cancelled": 1}
    assert real.row().balanced


def test_the_sender_of_a_purged_message_is_told(real: Cluster) -> None:
    delivery = real.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=3600)
    purge(real)
    assert isinstance(delivery.outcome(), Cancelled)


def test_a_countdown_waits_in_redis(real: Cluster) -> None:
    delivery = real.orchestrator.send("worker", app.Add(a=2, b=2), countdown_s=0.2)
    assert real.row().delayed == 1
    assert delivery.wait(timeout_s=WAIT_S) == Handled(4, 1)


def test_an_expired_message_is_counted_and_its_sender_is_told(real: Cluster) -> None:
    before = real.row()
    blockers = [real.orchestrator.send("worker", app.Hold(name="expiry")) for _ in range(2)]
    delivery = real.orchestrator.send("worker", app.Add(a=1, b=2), expires_s=0.05)
    sent_at_s = now_s(real)
    eventually(lambda: now_s(real) > sent_at_s + 0.1)
    real.redis.rpush("test:go:expiry", "1", "2")
    real.idle()
    assert changes(before, real.row()) == {"accepted": 3, "handled": 2, "expired": 1}
    assert [blocker.wait(timeout_s=WAIT_S) for blocker in blockers] == [Handled("expiry", 1)] * 2
    assert delivery.wait(timeout_s=2) == Expired()


def test_a_revoked_message_is_counted_and_its_sender_is_told(real: Cluster) -> None:
    before = real.row()
    delivery = real.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=2)
    real.orchestrator.app.control.revoke(delivery.id, reply=True, limit=1, timeout=5)
    real.idle()
    assert changes(before, real.row()) == {"accepted": 1, "cancelled": 1}
    assert isinstance(delivery.wait(timeout_s=2), Cancelled)


def test_a_hard_time_limit_is_a_timeout_and_is_tried_again() -> None:
    with hosted("prefork") as house:
        limited = house.orchestrator.app.tasks["plain.limited"]
        delivery = house.orchestrator.send(limited.s("never"), retry=Retry(max_retries=1, backoff=app.SOON))
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("timeout", 2)
        letter = house.orchestrator.dead_letters.get(str(outcome.letter_id))
        assert [failure.type for failure in letter.failures] == ["TimeLimitExceeded"] * 2
        (row,) = [row for row in house.idle() if row.accepted]
        assert (row.accepted, row.dead, row.retried, row.restarted, row.lost) == (1, 1, 1, 0, 0)


def test_a_deadline_leaves_the_workers_own_time_limit_in_force() -> None:
    environment = {"ORCHESTRATOR_TIMEOUTS": '{"worker.Hurried": 0.5}'}
    with hosted("prefork", concurrency=1, arguments=("--time-limit=1",), environment=environment) as house:
        delivery = house.orchestrator.send("worker", app.Hold(name="h"), retry=Retry(max_retries=0), deadline_s=30)
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.error.partition(":")[0]) == ("timeout", "TimeLimitExceeded")


def test_what_was_cancelled_too_late_runs_when_its_letter_is_sent_again() -> None:
    with hosted("threads") as house:
        delivery = house.orchestrator.send("worker", app.HoldAndFail(name="c"), retry=Retry(max_retries=0))
        eventually(lambda: delivery.status() is Status.RUNNING, describe=house.log)
        assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
        house.redis.rpush("test:go:c", "1")
        assert isinstance(delivery.wait(timeout_s=WAIT_S), Dead)
        house.redis.rpush("test:go:c", "1")
        (letter,) = house.orchestrator.dead_letters.list()
        house.orchestrator.dead_letters.replay(letter.id)
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert outcome.reason == "retries exhausted"


def test_the_history_of_what_ended_in_a_worker_has_the_deaths_on_the_way() -> None:
    with hosted("prefork", concurrency=1) as house:
        retry = Retry(max_retries=1, backoff=app.SOON)
        handled = house.orchestrator.send("worker", app.Deadly(name="h", lives="kfk."), retry=retry)
        assert handled.wait(timeout_s=WAIT_S) == Handled(None, 2)
        died, failed = "its worker died: killed", "ConnectionError: a life"
        expected = [(1, died), (2, failed), (3, died), (4, "handled")]
        assert [(a.number, a.how) for a in handled.history()] == expected
        dead = house.orchestrator.send("worker", app.Deadly(name="d", lives="kff"), retry=retry)
        assert isinstance(dead.wait(timeout_s=WAIT_S), Dead)
        assert [(a.number, a.how) for a in dead.history()] == [(1, died), (2, failed), (3, failed)]


def test_a_handler_that_kills_its_process_is_dead_lettered_with_its_history_and_its_neighbours_are_not_blamed() -> None:
    with hosted("prefork", concurrency=1, arguments=("--prefetch-multiplier=10",)) as house:
        deadly = house.orchestrator.send("worker", app.Deadly(name="d"), metadata={"job": 1})
        neighbours = [house.orchestrator.send("worker", app.WhoAmI()) for _ in range(5)]
        outcome = deadly.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("poison", 3)
        attempts = deadly.history()
        assert [(a.number, a.how) for a in attempts] == [(n, "its worker died: killed") for n in (1, 2, 3)]
        assert all(a.worker and datetime.fromisoformat(a.ended_at).tzinfo for a in attempts)
        letter = house.orchestrator.dead_letters.get(str(outcome.letter_id))
        assert (letter.reason, letter.attempts, dict(letter.metadata)) == ("poison", 3, {"job": 1})
        assert [death["reason"] for death in letter.deaths] == ["killed"] * 3
        assert all(death["by"] and death["at"] for death in letter.deaths)
        runs = [entry.split() for entry in house.redis.lrange("test:ran:d", 0, -1)]
        assert len({pid for pid, _, _ in runs}) == 3
        assert [redelivered for _, _, redelivered in runs] == [b"False", b"True", b"True"]
        for neighbour in neighbours:
            handled = neighbour.wait(timeout_s=WAIT_S)
            assert isinstance(handled, Handled)
            assert (handled.attempts, handled.result["attempt"], handled.result["redelivered"]) == (1, 1, False)
        (row,) = [row for row in house.idle() if row.accepted]
        assert (row.accepted, row.handled, row.dead, row.restarted, row.duplicated) == (6, 5, 1, 2, 0)
        assert row.balanced
        assert house.worker.is_running


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_handler_that_leaves_the_interpreter_does_not_take_its_worker_along(pool: str) -> None:
    with hosted(pool) as house:
        outcome = house.orchestrator.send("worker", app.Broken(text="exit")).wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert house.orchestrator.send("worker", app.Add(a=1, b=2)).wait(timeout_s=WAIT_S) == Handled(3, 1)
        assert house.worker.is_running
        assert all(row.balanced for row in house.idle())


def test_a_worker_that_is_told_to_stop_finishes_what_it_runs_and_gives_back_the_rest() -> None:
    with hosted("threads", concurrency=1, arguments=("--prefetch-multiplier=4",)) as house:
        running = house.orchestrator.send("worker", app.Hold(name="last"))
        waiting = [house.orchestrator.send("worker", app.Add(a=n, b=0)) for n in range(3)]
        eventually(lambda: house.row().held > 1, describe=house.log)
        house.worker.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in house.log(), describe=house.log)
        house.redis.rpush("test:go:last", "1")
        assert running.wait(timeout_s=WAIT_S) == Handled("last", 1)
        eventually(lambda: not house.worker or not house.worker.is_running, describe=house.log)
        row = house.row()
        assert (row.handled + row.ready, row.held, row.restarted, row.lost) == (4, 0, 0, 0)
        house.worker.start()
        assert [delivery.wait(timeout_s=WAIT_S) for delivery in waiting] == [Handled(n, 1) for n in range(3)]
