"""Timeouts, deadlines and expiry of a send, in eager mode and on each pool."""

from __future__ import annotations

import time
from functools import partial

import pytest

from orchestrator import Constant, Dead, Expired, Handled, Retry, Status
from tests.apps import agents_app as app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.sends import EAGER, INTERRUPTS, WAIT_S, became, dead

#: Within this time a worker has begun what it is sent, on a busy machine, too.
BEGUN_S = 2.0

# -- timeouts and deadlines


def test_a_slow_handler_is_interrupted_at_each_attempts_timeout(cluster: Cluster, kind: str) -> None:
    delivery = cluster.orchestrator.send("worker", app.Lasts(for_s=60 if kind in INTERRUPTS else 0.4), timeout_s=0.2)
    outcome = delivery.wait(timeout_s=WAIT_S)
    if kind in INTERRUPTS:
        assert dead(outcome) == ("timeout", "HandlerTimeout", 2)
        assert "worker.Lasts did not finish within 0.2 s" in str(outcome)
    else:
        assert outcome == Handled(0.4, 1)
        assert "allowed: 0.200 s; this pool cannot interrupt it" in cluster.log()


def test_a_handler_that_ends_in_time_knows_nothing_of_it(cluster: Cluster) -> None:
    assert cluster.orchestrator.send("worker", app.Lasts(for_s=0.01), timeout_s=10).wait(WAIT_S) == Handled(0.01, 1)


def test_a_handler_that_swallows_its_interruption_is_killed_where_the_pool_can(cluster: Cluster, kind: str) -> None:
    if kind != "prefork":
        pytest.skip("only prefork can kill what ignores its interruption")
    delivery = cluster.orchestrator.send("worker", app.Stubborn(for_s=60), timeout_s=0.2)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("timeout", "HandlerTimeout", 1)
    assert cluster.orchestrator.send("worker", app.Add(a=1, b=2)).wait(timeout_s=WAIT_S) == Handled(3, 1)


def test_no_attempt_begins_that_the_deadline_leaves_no_time_for(cluster: Cluster) -> None:
    retry = Retry(max_retries=9, backoff=Constant(3600))
    delivery = cluster.orchestrator.send("worker", app.Broken(), retry=retry, deadline_s=60)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("deadline passed", "ValueError", 1)


def test_a_message_that_comes_after_its_deadline_is_not_begun(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=2), deadline_s=1e-6)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("deadline passed", "DeadlinePassed", 1)


def test_the_deadline_interrupts_too(cluster: Cluster, kind: str) -> None:
    if kind not in INTERRUPTS:
        pytest.skip("this pool cannot interrupt a handler")
    delivery = cluster.orchestrator.send("worker", app.Lasts(for_s=60), deadline_s=BEGUN_S)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("deadline passed", "HandlerTimeout", 1)


def test_a_plain_task_has_timeouts_too(cluster: Cluster, kind: str) -> None:
    if kind not in INTERRUPTS:
        pytest.skip("this pool cannot interrupt a handler")
    lasts = cluster.orchestrator.app.tasks["plain.lasts"]
    delivery = cluster.orchestrator.send(lasts.s(60), retry=Retry(max_retries=0), timeout_s=0.2)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("timeout", "HandlerTimeout", 1)


# -- what expires


def test_what_expires_is_only_counted(cluster: Cluster) -> None:
    before = cluster.row().expired
    letters = cluster.orchestrator.dead_letters.count()
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=2), expires_s=0.05, countdown_s=0.1)
    assert delivery.wait(timeout_s=WAIT_S) == Expired()
    assert cluster.row().expired == before + 1
    assert cluster.orchestrator.dead_letters.count() == letters


def test_what_was_begun_in_time_expires_no_more(cluster: Cluster) -> None:
    """Regression: a retry that was due later than that expired, its error forgotten."""
    retry = Retry(max_retries=1, backoff=Constant(BEGUN_S + 0.1))
    delivery = cluster.orchestrator.send("worker", app.Flaky(failures=1), expires_s=BEGUN_S, retry=retry)
    assert delivery.wait(timeout_s=WAIT_S) == Handled(2, 2)


def test_an_attempt_that_outlasts_its_expiry_and_fails_is_tried_again(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    retry = Retry(max_retries=1, backoff=app.SOON)
    held = cluster.orchestrator.send("worker", app.HoldAndFail(name=f"late {kind}"), expires_s=BEGUN_S, retry=retry)
    expires_at = time.monotonic() + BEGUN_S
    eventually(lambda: held.status() is Status.RUNNING and time.monotonic() > expires_at, describe=cluster.log)
    cluster.redis.rpush(f"test:go:late {kind}", "1", "2")
    assert dead(held.wait(timeout_s=WAIT_S)) == ("retries exhausted", "ValueError", 2)


def test_an_error_that_is_never_repeated_is_no_used_up_retry_at_the_last_attempt(cluster: Cluster) -> None:
    retry = Retry(max_retries=0, never=(ValueError,))
    assert dead(cluster.orchestrator.send("worker", app.Broken(), retry=retry).wait(timeout_s=WAIT_S)) == (
        "non-retryable error",
        "ValueError",
        1,
    )


def test_what_expires_is_a_dead_letter_if_its_handler_or_its_send_asks_for_it(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    add = cluster.orchestrator.app.tasks["plain.add"]
    for delivery, result in (
        (cluster.orchestrator.send("worker", app.Perishable(), countdown_s=0.1), "fresh"),
        (
            cluster.orchestrator.send(
                "worker", app.Add(a=1, b=2), expires_s=0.05, countdown_s=0.1, dead_letter_expired=True
            ),
            3,
        ),
        (cluster.orchestrator.send(add.s(1, 2), expires_s=0.05, countdown_s=0.1, dead_letter_expired=True), 3),
    ):
        outcome = delivery.wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead), outcome
        assert (outcome.reason, outcome.attempts) == ("expired", 0)
        assert outcome.error.startswith("it expired at ")
        (letter,) = [letter for letter in log.list(50) if letter.delivery_id == delivery.id]
        assert (letter.reason, letter.error_type, letter.attempts) == ("expired", "Expired", 0)
        # Who sends it again does not want it to have expired again.
        log.replay(letter.id)
        eventually(partial(became, delivery, Handled(result, 1)), WAIT_S, cluster.log)


def test_a_send_may_decline_the_dead_letter_that_its_handler_asks_for(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Perishable(), countdown_s=0.1, dead_letter_expired=False)
    assert delivery.wait(timeout_s=WAIT_S) == Expired()


def test_what_expires_in_time_is_handled(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=2), expires_s=60, dead_letter_expired=True)
    assert delivery.wait(timeout_s=WAIT_S) == Handled(3, 1)
