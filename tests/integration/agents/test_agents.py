"""Supervised sends, in eager mode and on real workers: the same tests, and the same outcomes."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Dead, Handled, Message, Retry
from orchestrator.core.errors import InvalidPolicy, SendFailed
from orchestrator.sending.delivery import Delivery
from tests.apps import agents_app as app
from tests.support.agent_sends import WAIT_S, send
from tests.support.cluster import Cluster
from tests.support.eventually import eventually


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
def test_a_handled_message_brings_its_result_back(cluster: Cluster, message: Message, result: Any) -> None:
    assert send(cluster, message) == (Handled(result, 1), None, {"accepted": 1, "handled": 1})


@pytest.mark.parametrize("failures", [1, 2])
def test_a_message_that_fails_is_tried_again_until_it_is_handled(cluster: Cluster, failures: int) -> None:
    assert send(cluster, app.Flaky(failures=failures)) == (
        Handled(failures + 1, failures + 1),
        None,
        {"accepted": 1, "handled": 1, "retried": failures},
    )


def test_the_send_may_allow_more_attempts_than_the_agent(cluster: Cluster) -> None:
    outcome, _, counted = send(cluster, app.Flaky(failures=4), retry=Retry(max_retries=4, backoff=app.SOON))
    assert outcome == Handled(5, 5)
    assert counted["retried"] == 4


def test_a_message_whose_attempts_are_used_up_becomes_a_dead_letter(cluster: Cluster) -> None:
    outcome, letter, counted = send(cluster, app.Broken(text="ö"), metadata={"job": "123"})
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


def test_the_letter_has_each_attempt_with_its_traceback_and_its_cause(cluster: Cluster) -> None:
    _, letter, _ = send(cluster, app.Broken())
    assert letter is not None
    assert [(f.attempt, f.type, f.message) for f in letter.failures] == [(n, "ValueError", "broken") for n in (1, 2, 3)]
    for failure in letter.failures:
        assert 'raise OSError("cause")' in failure.traceback
        assert "The above exception was the direct cause" in failure.traceback
        assert failure.at
        assert failure.by


def test_an_error_named_in_never_is_not_repeated(cluster: Cluster) -> None:
    outcome, letter, counted = send(cluster, app.Hopeless())
    assert letter is not None
    assert outcome == Dead("non-retryable error", "Hopelessness: nowhere", 1, letter.id)
    assert counted == {"accepted": 1, "dead": 1}


def test_no_retries_means_one_attempt(cluster: Cluster) -> None:
    outcome, letter, counted = send(cluster, app.Broken(), retry=Retry(max_retries=0))
    assert letter is not None
    assert outcome == Dead("retries exhausted", "ValueError: broken", 1, letter.id)
    assert counted == {"accepted": 1, "dead": 1}


def test_a_rejected_message_is_a_dead_letter(cluster: Cluster) -> None:
    outcome, letter, counted = send(cluster, app.Rejects())
    assert letter is not None
    assert (outcome.reason, outcome.attempts, outcome.letter_id) == ("rejected", 1, letter.id)
    assert (letter.error_type, letter.error_message) == ("Reject", "not mine")
    assert counted == {"accepted": 1, "dead": 1}


def test_an_ignored_message_is_handled_without_a_result(cluster: Cluster) -> None:
    assert send(cluster, app.Ignores()) == (Handled(None, 1), None, {"accepted": 1, "handled": 1})


def test_a_soft_time_limit_is_a_timeout(cluster: Cluster) -> None:
    outcome, letter, counted = send(cluster, app.Slow())
    assert letter is not None
    assert (outcome.reason, outcome.attempts) == ("timeout", 2)
    assert (letter.reason, letter.error_type) == ("timeout", "SoftTimeLimitExceeded")
    assert counted == {"accepted": 1, "dead": 1, "retried": 1}


def test_an_error_without_text_and_without_pickle_is_told_by_its_name(cluster: Cluster) -> None:
    outcome, letter, _ = send(cluster, app.Broken(text="textless"))
    assert letter is not None
    assert outcome.error == "TextlessError: <TextlessError without text>"
    assert [failure.type for failure in letter.failures] == ["TextlessError"] * 3


def test_an_error_that_cannot_be_pickled_keeps_its_name_and_its_text(cluster: Cluster) -> None:
    outcome, letter, _ = send(cluster, app.Broken(text="declined"))
    assert letter is not None
    assert outcome.error == "DeclinedError: order o1: no funds"
    assert [failure.type for failure in letter.failures] == ["DeclinedError"] * 3


@pytest.mark.parametrize("on_error", ["log", "ignore"])
def test_without_a_letter_the_outcome_is_still_recorded_and_counted(cluster: Cluster, on_error: str) -> None:
    outcome, letter, counted = send(cluster, app.Broken(), on_error=on_error)
    assert outcome == Dead("retries exhausted", "ValueError: broken", 3, None)
    assert letter is None
    assert counted == {"accepted": 1, "dead": 1, "retried": 2}


def test_raise_raises_where_the_sender_waits_and_keeps_a_letter(cluster: Cluster) -> None:
    before = cluster.orchestrator.dead_letters.count()
    with pytest.raises(SendFailed, match=r"was not handled: .*retries exhausted") as failed:
        cluster.orchestrator.send("worker", app.Broken(), on_error="raise").wait(timeout_s=WAIT_S)
    outcome = failed.value.outcome
    assert isinstance(outcome, Dead)
    assert cluster.orchestrator.dead_letters.get(str(outcome.letter_id)).reason == "retries exhausted"
    assert cluster.orchestrator.dead_letters.count() == before + 1


def test_log_logs_where_it_happens(redis_cluster: Cluster) -> None:
    send(redis_cluster, app.Broken(text="say it"), on_error="log")
    eventually(lambda: "worker Broken dropped after its last attempt: ValueError: say it" in redis_cluster.log())


def test_a_handler_knows_what_it_handles(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.WhoAmI(), metadata={"job": [1, {"x": None}]})
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


def test_a_plain_task_is_a_recipient_too(cluster: Cluster) -> None:
    tasks = cluster.orchestrator.app.tasks
    assert cluster.orchestrator.send(tasks["plain.add"].s(1, b=2)).wait(timeout_s=WAIT_S) == Handled(3, 1)
    outcome = cluster.orchestrator.send(
        tasks["plain.fail"].s("no"), retry=Retry(max_retries=1, backoff=app.SOON), metadata={"x": 1}
    ).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error, outcome.attempts) == ("retries exhausted", "ValueError: no", 2)
    letter = cluster.orchestrator.dead_letters.get(str(outcome.letter_id))
    assert (letter.task, letter.agent, dict(letter.metadata)) == ("plain.fail", "", {"x": 1})


def test_celerys_own_retry_inside_a_supervised_task_ends_in_one_outcome(cluster: Cluster) -> None:
    again = cluster.orchestrator.app.tasks["plain.again"]
    outcome = cluster.orchestrator.send(again.s(2)).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Handled)
    assert outcome.result == 2


@pytest.mark.parametrize("kind", ["task", "chain", "chord", "group", "starmap", "failing"])
def test_a_task_that_is_replaced_has_the_outcome_of_what_replaces_it(cluster: Cluster, kind: str) -> None:
    if kind in ("chord", "group") and not cluster.has_worker:
        pytest.skip("Celery's own chords need a result backend, in eager mode too")
    replaced = cluster.orchestrator.app.tasks["plain.replaced"]
    retry = Retry(max_retries=1, backoff=app.SOON)
    outcome = cluster.orchestrator.send(replaced.s(20, 22, kind), retry=retry).wait(timeout_s=WAIT_S)
    if kind == "failing":
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.error, outcome.attempts) == ("retries exhausted", "ValueError: 20", 2)
    else:
        assert outcome == Handled([42, 42] if kind in ("group", "starmap") else 42, 1)


@pytest.mark.parametrize("kind", ["task", "self", "chain", "failing"])
def test_a_task_under_an_idempotency_key_may_be_replaced(cluster: Cluster, kind: str) -> None:
    replaced = cluster.orchestrator.app.tasks["plain.replaced"]
    key = f"{cluster.url}:{kind}"

    def send() -> Delivery:
        delivery: Delivery = cluster.orchestrator.send(
            replaced.s(20, 22, kind), retry=Retry(max_retries=0), idempotency_key=key, idempotency_ttl_s=60
        )
        return delivery

    first = send()
    outcome = first.wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead) if kind == "failing" else outcome == Handled(42, 1)
    assert (send().id, send().wait(timeout_s=WAIT_S)) == (first.id, outcome)
    if cluster.has_worker:
        cluster.idle()
        left_ms = cluster.redis.pttl(cluster.keys.idempotency("", "plain.replaced", key))
        assert 0 < left_ms <= 60_000, "the key ages from the outcome of what has replaced the task"
        assert not cluster.redis.exists(cluster.keys.idempotency("", "plain.add", key))


def test_callbacks_of_a_signature_are_called_after_success_and_errbacks_after_the_last_attempt(
    cluster: Cluster,
) -> None:
    tasks = cluster.orchestrator.app.tasks
    noted: Any = tasks["plain.noted"]
    app.NOTED.clear()
    name = f"callbacks:{cluster.url}"
    added = tasks["plain.add"].s(1, 2).set(link=noted.s(name), link_error=noted.si("no", name))
    assert cluster.orchestrator.send(added).wait(timeout_s=WAIT_S) == Handled(3, 1)
    failed = tasks["plain.fail"].s("no").set(link=noted.s(name), link_error=noted.si("failed", name))
    outcome = cluster.orchestrator.send(failed, retry=Retry(max_retries=2, backoff=app.SOON)).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    if not cluster.has_worker:
        assert app.NOTED == ["3", "failed"]
    else:
        assert eventually(lambda: sorted(cluster.redis.lrange(f"test:noted:{name}", 0, -1)) == [b"3", b"failed"])


def test_an_outcome_can_be_asked_for_again_and_again(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=1))
    assert delivery.wait(timeout_s=WAIT_S) == delivery.wait(timeout_s=WAIT_S) == delivery.outcome() == Handled(2, 1)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "5", None, 1e9])
def test_a_wait_has_an_end(cluster: Cluster, timeout_s: Any) -> None:
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=1))
    with pytest.raises(InvalidPolicy, match="timeout_s="):
        delivery.wait(timeout_s)
    delivery.wait(timeout_s=WAIT_S)


def test_what_a_handler_sends_inherits_its_deadline_if_it_says_so(cluster: Cluster) -> None:
    for options, has_deadline in (({"deadline": "inherit"}, True), ({}, False)):
        sent = cluster.orchestrator.send("worker", app.TimeLeft(send=options), deadline_s=600, timeout_s=500)
        outcome: Any = sent.wait(WAIT_S)
        left_s, child = outcome.result
        assert 0 < left_s <= 500
        outcome = cluster.orchestrator.delivery(child).wait(WAIT_S)
        childs_left_s, _ = outcome.result
        assert (childs_left_s is not None) is has_deadline
        # The deadline of what is handled, not the end of its attempt.
        assert childs_left_s is None or 500 < childs_left_s <= 600
