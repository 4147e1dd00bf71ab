"""What belongs to an attempt, and what comes after it: in eager mode and on real workers alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import Dead, Handled, Retry, SendFailed
from orchestrator.embedded import EmbeddedServer
from tests.apps import execution_app as app
from tests.support.cluster import NO_REDIS, TaskCluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

WAIT_S = 20


class ExecutionCluster(TaskCluster):
    """A pool to execute in, or eager mode."""

    def __init__(self, url: str, worker: WorkerProcess | None, pool: str) -> None:
        super().__init__(url, worker, app.make(url, eager=worker is None), app.SOON, app.NOTED)
        self.pool = pool


@pytest.fixture(scope="module", params=["eager", "solo", "threads", "gevent", "prefork"])
def whole(request: pytest.FixtureRequest) -> Iterator[ExecutionCluster]:
    """All places in which a message can be handled."""
    if request.param == "eager":
        yield ExecutionCluster(NO_REDIS, None, "eager")
        return
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.execution_app", server.url, pool=request.param, concurrency=1, queues="celery,giver"
        ) as worker,
    ):
        cluster = ExecutionCluster(server.url, worker, request.param)
        yield cluster
        cluster.close()


@pytest.fixture
def cluster(whole: ExecutionCluster) -> ExecutionCluster:
    """With nothing noted."""
    whole.forget()
    return whole


def test_an_error_before_the_function_is_retried_as_one_of_it(cluster: ExecutionCluster) -> None:
    assert cluster.outcome("prepared") == Handled(True, 3)
    assert cluster.noted() == ["before_start 0", "before_start 1", "before_start 2"]
    assert cluster.outcome("called") == Handled(2, 3)


def test_the_timeout_holds_for_what_comes_before_the_function(cluster: ExecutionCluster) -> None:
    if cluster.pool in ("threads", "gevent"):
        pytest.skip("a thread or a greenlet cannot be interrupted")
    send = cluster.orchestrator.send
    outcome = send(cluster.tasks["plain.slow"].s(), timeout_s=0.5, retry=Retry(max_retries=0)).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error) == (
        "timeout",
        "HandlerTimeout: plain.slow did not finish within 0.5 s",
    )


def test_an_error_of_celerys_before_the_task_is_retried(cluster: ExecutionCluster) -> None:
    assert cluster.outcome("loaded") == Handled(2, 3)


def test_a_task_that_calls_its_own_function_sees_what_that_raises(cluster: ExecutionCluster) -> None:
    assert cluster.outcome("catching", "it") == Handled("caught it", 1)
    assert cluster.outcome("countdown", 2) == Handled("1 after none left", 1)


def test_hooks_that_fail_decide_nothing(cluster: ExecutionCluster) -> None:
    assert cluster.outcome("hooked_fail", 1) == Handled("ran", 2)
    expected = ["ran 0", "on_retry", "ran 1", "on_success", "after_return"]
    eventually(lambda: cluster.noted() == expected, describe=lambda: f"{cluster.noted()} {cluster.log()}")
    cluster.forget()
    dead = cluster.outcome("hooked_fail", 9)
    assert isinstance(dead, Dead)
    assert (dead.error, dead.attempts) == ("ValueError: failed", 4)
    assert cluster.noted()[-3:] == ["ran 3", "on_failure", "after_return"]


NOT_JSON = ["object", "nested", "circle", "bytes"]
NO_JSON_TEXT = ["nan", "infinite", "nested_nan", "half", "nested_half", "half_key", "long"]


@pytest.mark.parametrize("kind", [*NOT_JSON, *NO_JSON_TEXT])
def test_a_result_that_is_not_json_is_refused_and_not_retried(cluster: ExecutionCluster, kind: str) -> None:
    by_task = cluster.outcome("gives", kind)
    by_agent = cluster.orchestrator.send("giver", app.Give(kind=kind)).wait(timeout_s=WAIT_S)
    for outcome, name in ((by_task, "plain.gives"), (by_agent, "giver.Give")):
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("result not stored", 1)
        assert outcome.error.startswith(f"InvalidResult: {name} returned a ")
        assert " at 0x" not in outcome.error


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
def test_what_did_not_run_is_not_handled(cluster: ExecutionCluster, kind: str) -> None:
    for outcome in (
        cluster.outcome("gives", kind),
        cluster.orchestrator.send("giver", app.Give(kind=kind)).wait(timeout_s=WAIT_S),
    ):
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("deployment", 1)
        assert outcome.error.startswith("HandlerNotRun: ")
        assert kind in outcome.error


def test_a_result_that_cannot_be_stored_says_so(cluster: ExecutionCluster) -> None:
    outcome = cluster.outcome("stored", "json")
    if not cluster.has_worker:
        # Eager mode stores nothing.
        assert outcome == Handled({"type": "report"}, 1)
    else:
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("result not stored", 1)
        said = "plain.stored returned, but its result could not be stored or passed on: EncodeError: too large"
        assert outcome.error == f"ResultNotStored: {said}"


def test_a_task_sees_its_senders_headers_and_no_others(cluster: ExecutionCluster) -> None:
    assert cluster.outcome("seen").result["headers"] == {}
    assert cluster.outcome("fails_then_seen").result["headers"] == {}
    retried = cluster.outcome("seen", 2)
    assert isinstance(retried, Handled)
    assert retried.result == {"headers": {}, "eta": retried.result["eta"], "retries": 2}


def test_headers_that_are_passed_on_do_not_supervise_a_child(cluster: ExecutionCluster) -> None:
    assert isinstance(cluster.outcome("passes_on", "c"), Handled)
    eventually(lambda: cluster.noted() == ["c False []"], describe=lambda: f"{cluster.noted()} {cluster.log()}")


@pytest.mark.parametrize("kind", ["nan", "half"])
def test_a_call_is_not_answered_with_what_is_no_json(cluster: ExecutionCluster, kind: str) -> None:
    with pytest.raises(SendFailed, match="InvalidResult"):
        cluster.orchestrator.call("giver", app.Give(kind=kind), timeout_s=WAIT_S)


@pytest.mark.parametrize("kind", app.NO_EXCEPTIONS)
def test_an_error_that_is_no_exception_fails_the_attempt(cluster: ExecutionCluster, kind: str) -> None:
    by_task = cluster.outcome("raises", kind)
    by_agent = cluster.orchestrator.send("giver", app.Raise(kind=kind)).wait(timeout_s=WAIT_S)
    by_hook = cluster.outcome("raises_before", kind)
    for outcome in (by_task, by_agent, by_hook):
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("retries exhausted", 4)
        assert outcome.error == f"{app.NO_EXCEPTIONS[kind].__name__}: {kind}"
    assert cluster.outcome("raises", kind, 2) == Handled("recovered", 3)


def test_a_policy_may_name_an_error_that_is_no_exception(cluster: ExecutionCluster) -> None:
    task = cluster.tasks["plain.raises"]
    for retry in (Retry(max_retries=3, never=(app.Weird,)), Retry(max_retries=3, on=("ValueError",))):
        outcome = cluster.orchestrator.send(task.s("weird"), retry=retry).wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead)
        assert (outcome.reason, outcome.attempts) == ("non-retryable error", 1)
    named = replace(app.SOON, on=(app.Weird,))
    assert cluster.orchestrator.send(task.s("weird", 2), retry=named).wait(timeout_s=WAIT_S) == Handled("recovered", 3)


def test_a_plain_send_that_raises_no_exception_is_a_dead_letter(cluster: ExecutionCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("eager mode has no dead letters of plain sends")
    result = cluster.tasks["plain.raises"].apply_async(("weird",), ignore_result=True)

    def letters() -> list[Any]:
        return [letter for letter in cluster.orchestrator.dead_letters.list(1000) if letter.delivery_id == result.id]

    eventually(lambda: len(letters()) == 1, describe=cluster.log)
    (letter,) = letters()
    assert (letter.error_type, letter.error_message, letter.attempts) == ("Weird", "weird", 1)
