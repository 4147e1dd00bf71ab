"""Supervised sends, in eager mode and on real workers: the same tests, and the same outcomes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from orchestrator import Cancelled, CancelResult, Dead, Expired, Exponential, Handled, Message, Retry, Status
from orchestrator.core.errors import DeliveryTimeout, InvalidPolicy, SendFailed
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.delivery import Delivery
from orchestrator.sending.ledger import LedgerRow
from tests.apps import agents_app as app
from tests.support.agents_cluster import hosted
from tests.support.cluster import NO_REDIS, Cluster
from tests.support.eventually import eventually

WAIT_S = 20


@pytest.fixture(scope="module", params=["eager", "solo", "threads", "prefork"])
def house(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """All places in which a message can be handled."""
    if request.param == "eager":
        yield Cluster(NO_REDIS, None, app.make(NO_REDIS, eager=True))
        return
    with hosted(request.param, concurrency=2 if request.param != "solo" else 1) as house:
        yield house


@pytest.fixture(scope="module", params=["solo", "threads", "prefork"])
def real(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Workers only. One that holds tasks, so more than one at a time where the pool can."""
    with hosted(request.param, concurrency=2 if request.param != "solo" else 1) as house:
        yield house


def purge(house: Cluster) -> None:
    with house.orchestrator.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("worker")


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test finds what another has left pending."""
    yield
    if "real" in request.fixturenames:
        purge(request.getfixturevalue("real"))


def now_s(house: Cluster) -> float:
    seconds, micros = house.redis.time()
    return float(seconds) + float(micros) / 1e6


def changes(before: LedgerRow, after: LedgerRow) -> dict[str, int]:
    """What has been counted meanwhile."""
    names = ("accepted", "handled", "dead", "expired", "cancelled", "retried", "redelivered", "restarted", "duplicated")
    return {n: d for n in names if (d := getattr(after, n) - getattr(before, n))}


def send(house: Cluster, message: Message, **options: Any) -> tuple[Any, DeadLetter | None, dict[str, int]]:
    """Send; returns the outcome, the dead letter there is now, and what the ledger counted."""
    before = house.row()
    known = {letter.id for letter in house.orchestrator.dead_letters.list(1000)}
    delivery = house.orchestrator.send("worker", message, **options)
    outcome = delivery.wait(timeout_s=WAIT_S) if options.get("on_error") != "raise" else delivery.outcome()
    if house.has_worker:
        house.idle()
    after = house.row()
    assert after.balanced
    new = [letter for letter in house.orchestrator.dead_letters.list(1000) if letter.id not in known]
    assert len(new) < 2
    return outcome, (new[0] if new else None), changes(before, after)


@pytest.mark.parametrize(
    ("message", "result"),
    [
        (app.Add(a=1, b=2), 3),
        (app.Pay(order_id="o", cents=5, password="p"), "o:5:p"),
        (app.Returns(what="model"), {"number": 7}),
        (app.Returns(what="tuple"), [1, 2]),
        (app.Returns(what="set"), [3]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_handled_message_brings_its_result_back(house: Cluster, message: Message, result: Any) -> None:
    assert send(house, message) == (Handled(result, 1), None, {"accepted": 1, "handled": 1})


@pytest.mark.parametrize("failures", [1, 2])
def test_a_message_that_fails_is_tried_again_until_it_is_handled(house: Cluster, failures: int) -> None:
    assert send(house, app.Flaky(failures=failures)) == (
        Handled(failures + 1, failures + 1),
        None,
        {"accepted": 1, "handled": 1, "retried": failures},
    )


def test_the_send_may_allow_more_attempts_than_the_agent(house: Cluster) -> None:
    outcome, _, counted = send(house, app.Flaky(failures=4), retry=Retry(max_retries=4, backoff=app.SOON))
    assert outcome == Handled(5, 5)
    assert counted["retried"] == 4


def test_a_message_whose_attempts_are_used_up_becomes_a_dead_letter(house: Cluster) -> None:
    outcome, letter, counted = send(house, app.Broken(text="ö"), metadata={"job": "123"})
    assert letter is not None
    assert outcome == Dead("retries exhausted", "ValueError: ö", 3, letter.id)
    assert counted == {"accepted": 1, "dead": 1, "retried": 2}
    assert (letter.reason, letter.attempts, letter.queue) == ("retries exhausted", 3, "worker")
    assert (letter.error_type, letter.error_message) == ("ValueError", "ö")
    assert (letter.agent, letter.message, letter.task) == ("worker", "Broken", "worker.Broken")
    assert dict(letter.metadata) == {"job": "123"}
    assert letter.body() == [[{"text": "ö"}], {}]
    assert letter.by
    assert letter.deaths == ()


def test_the_letter_has_each_attempt_with_its_traceback_and_its_cause(house: Cluster) -> None:
    _, letter, _ = send(house, app.Broken())
    assert letter is not None
    assert [(f.attempt, f.type, f.message) for f in letter.failures] == [(n, "ValueError", "broken") for n in (1, 2, 3)]
    for failure in letter.failures:
        assert 'raise OSError("cause")' in failure.traceback
        assert "The above exception was the direct cause" in failure.traceback
        assert failure.at
        assert failure.by


def test_an_error_named_in_never_is_not_repeated(house: Cluster) -> None:
    outcome, letter, counted = send(house, app.Hopeless())
    assert letter is not None
    assert outcome == Dead("non-retryable error", "Hopelessness: nowhere", 1, letter.id)
    assert counted == {"accepted": 1, "dead": 1}


def test_no_retries_means_one_attempt(house: Cluster) -> None:
    outcome, letter, counted = send(house, app.Broken(), retry=Retry(max_retries=0))
    assert letter is not None
    assert outcome == Dead("retries exhausted", "ValueError: broken", 1, letter.id)
    assert counted == {"accepted": 1, "dead": 1}


def test_a_rejected_message_is_a_dead_letter(house: Cluster) -> None:
    outcome, letter, counted = send(house, app.Rejects())
    assert letter is not None
    assert (outcome.reason, outcome.attempts, outcome.letter_id) == ("rejected", 1, letter.id)
    assert (letter.error_type, letter.error_message) == ("Reject", "not mine")
    assert counted == {"accepted": 1, "dead": 1}


def test_an_ignored_message_is_handled_without_a_result(house: Cluster) -> None:
    assert send(house, app.Ignores()) == (Handled(None, 1), None, {"accepted": 1, "handled": 1})


def test_a_soft_time_limit_is_a_timeout(house: Cluster) -> None:
    outcome, letter, counted = send(house, app.Slow())
    assert letter is not None
    assert (outcome.reason, outcome.attempts) == ("timeout", 2)
    assert (letter.reason, letter.error_type) == ("timeout", "SoftTimeLimitExceeded")
    assert counted == {"accepted": 1, "dead": 1, "retried": 1}


def test_an_error_without_text_and_without_pickle_is_told_by_its_name(house: Cluster) -> None:
    outcome, letter, _ = send(house, app.Broken(text="textless"))
    assert letter is not None
    assert outcome.error == "TextlessError: <TextlessError without text>"
    assert [failure.type for failure in letter.failures] == ["TextlessError"] * 3


def test_an_error_that_cannot_be_pickled_keeps_its_name_and_its_text(house: Cluster) -> None:
    outcome, letter, _ = send(house, app.Broken(text="declined"))
    assert letter is not None
    assert outcome.error == "DeclinedError: order o1: no funds"
    assert [failure.type for failure in letter.failures] == ["DeclinedError"] * 3


@pytest.mark.parametrize("on_error", ["log", "ignore"])
def test_without_a_letter_the_outcome_is_still_recorded_and_counted(house: Cluster, on_error: str) -> None:
    outcome, letter, counted = send(house, app.Broken(), on_error=on_error)
    assert outcome == Dead("retries exhausted", "ValueError: broken", 3, None)
    assert letter is None
    assert counted == {"accepted": 1, "dead": 1, "retried": 2}


def test_raise_raises_where_the_sender_waits_and_keeps_a_letter(house: Cluster) -> None:
    before = house.orchestrator.dead_letters.count()
    with pytest.raises(SendFailed, match=r"was not handled: .*retries exhausted") as failed:
        house.orchestrator.send("worker", app.Broken(), on_error="raise").wait(timeout_s=WAIT_S)
    outcome = failed.value.outcome
    assert isinstance(outcome, Dead)
    assert house.orchestrator.dead_letters.get(str(outcome.letter_id)).reason == "retries exhausted"
    assert house.orchestrator.dead_letters.count() == before + 1


def test_log_logs_where_it_happens(real: Cluster) -> None:
    send(real, app.Broken(text="say it"), on_error="log")
    eventually(lambda: "worker Broken given up: ValueError: say it" in real.log())


def test_a_handler_knows_what_it_handles(house: Cluster) -> None:
    delivery = house.orchestrator.send("worker", app.WhoAmI(), metadata={"job": [1, {"x": None}]})
    assert delivery.wait(timeout_s=WAIT_S) == Handled(
        {
            "id": delivery.id,
            "agent": "worker",
            "attempt": 1,
            "redelivered": False,
            "metadata": {"job": [1, {"x": None}]},
            "named": True,
        }
    )


def test_a_plain_task_is_a_recipient_too(house: Cluster) -> None:
    tasks = house.orchestrator.app.tasks
    assert house.orchestrator.send(tasks["plain.add"].s(1, b=2)).wait(timeout_s=WAIT_S) == Handled(3, 1)
    outcome = house.orchestrator.send(
        tasks["plain.fail"].s("no"), retry=Retry(max_retries=1, backoff=app.SOON), metadata={"x": 1}
    ).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error, outcome.attempts) == ("retries exhausted", "ValueError: no", 2)
    letter = house.orchestrator.dead_letters.get(str(outcome.letter_id))
    assert (letter.task, letter.agent, dict(letter.metadata)) == ("plain.fail", "", {"x": 1})


def test_celerys_own_retry_inside_a_supervised_task_ends_in_one_outcome(house: Cluster) -> None:
    again = house.orchestrator.app.tasks["plain.again"]
    outcome = house.orchestrator.send(again.s(2)).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Handled)
    assert outcome.result == 2


@pytest.mark.parametrize("kind", ["task", "chain", "chord", "failing"])
def test_a_task_that_is_replaced_has_the_outcome_of_what_replaces_it(house: Cluster, kind: str) -> None:
    if kind == "chord" and not house.has_worker:
        pytest.skip("Celery's own chords need a result backend, in eager mode too")
    replaced = house.orchestrator.app.tasks["plain.replaced"]
    retry = Retry(max_retries=1, backoff=app.SOON)
    outcome = house.orchestrator.send(replaced.s(20, 22, kind), retry=retry).wait(timeout_s=WAIT_S)
    if kind == "failing":
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.error, outcome.attempts) == ("retries exhausted", "ValueError: 20", 2)
    else:
        assert outcome == Handled(42, 1)


@pytest.mark.parametrize("kind", ["task", "self", "chain", "failing"])
def test_a_task_under_an_idempotency_key_may_be_replaced(house: Cluster, kind: str) -> None:
    replaced = house.orchestrator.app.tasks["plain.replaced"]
    key = f"{house.url}:{kind}"

    def send() -> Delivery:
        return house.orchestrator.send(
            replaced.s(20, 22, kind), retry=Retry(max_retries=0), idempotency_key=key, idempotency_ttl_s=60
        )

    first = send()
    outcome = first.wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead) if kind == "failing" else outcome == Handled(42, 1)
    assert (send().id, send().wait(timeout_s=WAIT_S)) == (first.id, outcome)
    if house.has_worker:
        house.idle()
        left_ms = house.redis.pttl(house.keys.idempotency("", "plain.replaced", key))
        assert 0 < left_ms <= 60_000, "the key ages from the outcome of what has replaced the task"
        assert not house.redis.exists(house.keys.idempotency("", "plain.add", key))


def test_callbacks_of_a_signature_are_called_after_success_and_errbacks_after_the_last_attempt(house: Cluster) -> None:
    tasks = house.orchestrator.app.tasks
    noted: Any = tasks["plain.noted"]
    app.NOTED.clear()
    name = f"callbacks:{house.url}"
    added = tasks["plain.add"].s(1, 2).set(link=noted.s(name), link_error=noted.si("no", name))
    assert house.orchestrator.send(added).wait(timeout_s=WAIT_S) == Handled(3, 1)
    failed = tasks["plain.fail"].s("no").set(link=noted.s(name), link_error=noted.si("failed", name))
    outcome = house.orchestrator.send(failed, retry=Retry(max_retries=2, backoff=app.SOON)).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    if not house.has_worker:
        assert app.NOTED == ["3", "failed"]
    else:
        assert eventually(lambda: sorted(house.redis.lrange(f"test:noted:{name}", 0, -1)) == [b"3", b"failed"])


def test_an_outcome_can_be_asked_for_again_and_again(house: Cluster) -> None:
    delivery = house.orchestrator.send("worker", app.Add(a=1, b=1))
    assert delivery.wait(timeout_s=WAIT_S) == delivery.wait(timeout_s=WAIT_S) == delivery.outcome() == Handled(2, 1)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "5", None, 1e9])
def test_a_wait_has_an_end(house: Cluster, timeout_s: Any) -> None:
    delivery = house.orchestrator.send("worker", app.Add(a=1, b=1))
    with pytest.raises(InvalidPolicy, match="timeout_s="):
        delivery.wait(timeout_s)
    delivery.wait(timeout_s=WAIT_S)


# -- what only a worker can do


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


def test_a_handler_that_kills_its_process_is_buried_with_its_history_and_its_neighbours_are_not_blamed() -> None:
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
