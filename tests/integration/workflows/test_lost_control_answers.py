"""Commands of runs whose answers are lost are repeated, give the first answer, and do nothing twice.

Who calls one again after an error has a new wish, which is not answered by what the first call has done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, Orchestrator, UnknownWorkflow, Workflow, WorkflowExists
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt
from orchestrator.workflows.records import ControlResult
from orchestrator.workflows.redis import run_starts
from orchestrator.workflows.redis.fork import write_fork
from orchestrator.workflows.redis.scripts import control_run, delete_run, start_run
from orchestrator.workflows.run import Run
from tests.integration.workflows.conftest import waits
from tests.support.eventually import eventually
from tests.support.lost_answers import LostAnswers

#: Of each script, what a command that runs it has in it.
START = start_run(Keys(), "", "", "", "", None)[0].sha
CONTROL = control_run(Keys(), "", "pause")[0].sha
DELETE = delete_run(Keys(), "", Attempt("", ""))[0].sha


def _until_answered(ask: Callable[[], Any]) -> Any:
    """What a caller does that gets no answer: the same again."""
    while True:
        with suppress(BrokerUnavailable):
            return ask()


def _failed(orchestrator: Orchestrator) -> Run:
    """A run that has failed, without a worker."""
    flow = Workflow("fails")
    flow.wait("wait", event="never", timeout_s=0.01)
    run = orchestrator.workflows.start(flow)

    def has_failed() -> bool:
        orchestrator.runtime.redis.runs.controls.control(run.uid, "time", "0")
        return run.status().state == "failed"

    eventually(has_failed)
    return run


def _paused(orchestrator: Orchestrator) -> Run:
    run = orchestrator.workflows.start(waits())
    run.pause()
    return run


COMMANDS: dict[str, tuple[Callable[[Orchestrator], Run], Callable[[Run], Any]]] = {
    "pause": (lambda o: o.workflows.start(waits()), lambda run: run.pause()),
    "resume": (_paused, lambda run: run.resume()),
    "cancel": (lambda o: o.workflows.start(waits()), lambda run: run.cancel()),
    "post": (lambda o: o.workflows.start(waits()), lambda run: run.post("approved")),
    "retry": (_failed, lambda run: run.retry("wait")),
    "delete": (_failed, lambda run: run.delete()),
}


def load_scripts(orchestrator: Orchestrator) -> None:
    """Have the server know the scripts, so that the answer that is lost is not NOSCRIPT."""
    orchestrator.workflows.start(waits()).pause()
    _failed(orchestrator).delete()


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_done_once(lossy: Orchestrator, network: LostAnswers, name: str, done_first: bool) -> None:
    make, act = COMMANDS[name]
    run = make(lossy)
    load_scripts(lossy)
    network.lose(1, DELETE if name == "delete" else CONTROL, done_first=done_first)
    assert act(run) is ControlResult.DONE
    assert network.left == 0


#: What a command says that a call without an answer has done already.
AGAIN: dict[str, ControlResult | type[Exception]] = {
    "pause": ControlResult.PAUSED_ALREADY,
    "resume": ControlResult.NOT_PAUSED,
    "cancel": ControlResult.TOO_LATE,
    "post": ControlResult.TOO_LATE,
    "retry": ControlResult.NOT_FAILED,
    "delete": UnknownWorkflow,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_who_repeats_one_after_an_error_learns_what_has_become_of_the_run(
    lossy: Orchestrator, network: LostAnswers, name: str
) -> None:
    make, act = COMMANDS[name]
    run = make(lossy)
    load_scripts(lossy)
    network.lose(2, DELETE if name == "delete" else CONTROL, done_first=True)
    with pytest.raises(BrokerUnavailable):
        act(run)
    expected = AGAIN[name]
    if isinstance(expected, ControlResult):
        assert act(run) is expected
    else:
        with pytest.raises(expected):
            act(run)


def test_who_pauses_again_after_another_has_resumed_pauses(lossy: Orchestrator, network: LostAnswers) -> None:
    """Regression: it was answered as the first call, and paused nothing."""
    run = lossy.workflows.start(waits())
    load_scripts(lossy)
    network.lose(2, CONTROL, done_first=True)
    with pytest.raises(BrokerUnavailable):
        run.pause()
    with ThreadPoolExecutor(1) as another:
        assert another.submit(run.resume).result(10) is ControlResult.DONE
    assert run.pause() is ControlResult.DONE
    assert run.status().paused


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_run_is_started_once(lossy: Orchestrator, network: LostAnswers, times: int, done_first: bool) -> None:
    lossy.workflows.start(waits())
    network.lose(times, START, done_first=done_first)
    run = _until_answered(lambda: lossy.workflows.start(waits(), workflow_id="once"))
    assert [one.uid for one in lossy.workflows.list() if one.id == "once"] == [run.uid]
    assert run.post("approved") is ControlResult.DONE
    assert run.wait(10).state == "completed"


@pytest.mark.parametrize("done_first", [True, False])
def test_a_run_without_an_id_is_started_once(lossy: Orchestrator, network: LostAnswers, done_first: bool) -> None:
    """If the answer is lost once; a caller that gets an error, and starts anew, has two."""
    lossy.workflows.start(waits())
    network.lose(1, START, done_first=done_first)
    lossy.workflows.start(waits())
    assert sum(1 for _ in lossy.workflows.list()) == 2


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_run_is_forked_once(lossy: Orchestrator, network: LostAnswers, times: int, done_first: bool) -> None:
    run = _failed(lossy)
    network.lose(times, START, done_first=done_first)
    fork = _until_answered(lambda: run.fork(after="wait", workflow_id="fork"))
    assert sorted(one.uid for one in lossy.workflows.list()) == sorted([run.uid, fork.uid])


def _have_another_fork_first(patch: pytest.MonkeyPatch, run: Run, deadline_s: float | None) -> list[Run]:
    """Have another process fork the run after the next fork has found none of that id."""
    first: list[Run] = []

    def write_after_another(*args: Any) -> Any:
        patch.undo()
        first.append(run.fork(after="wait", workflow_id="fork", deadline_s=deadline_s))
        return write_fork(*args)

    patch.setattr(run_starts, "write_fork", write_after_another)
    return first


@pytest.mark.parametrize("deadline_s", [None, 60])
def test_the_same_fork_at_the_same_time_is_one_run(
    lossy: Orchestrator, monkeypatch: pytest.MonkeyPatch, deadline_s: float | None
) -> None:
    """Regression: the later of two processes got an error."""
    run = _failed(lossy)
    first = _have_another_fork_first(monkeypatch, run, deadline_s)
    fork = run.fork(after="wait", workflow_id="fork", deadline_s=deadline_s)
    assert [one.uid for one in first] == [fork.uid]


def test_another_fork_at_the_same_time_is_refused(lossy: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _failed(lossy)
    first = _have_another_fork_first(monkeypatch, run, 60)
    with pytest.raises(WorkflowExists, match="not a fork of the same run"):
        run.fork(after="wait", workflow_id="fork", deadline_s=3600)
    assert first
