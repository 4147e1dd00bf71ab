"""Commands of runs whose answers are lost: repeated, they give the first answer, and do nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, Orchestrator, Workflow
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt
from orchestrator.workflows.records import ControlResult
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


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_done_once(
    lossy: Orchestrator, network: LostAnswers, name: str, times: int, done_first: bool
) -> None:
    make, act = COMMANDS[name]
    run = make(lossy)
    # So that the server has the script: the answer that is lost is not NOSCRIPT.
    lossy.workflows.start(waits()).pause()
    other = _failed(lossy)
    other.delete()
    mark = DELETE if name == "delete" else CONTROL
    network.lose(times, mark, done_first=done_first)
    assert _until_answered(lambda: act(run)) is ControlResult.DONE
    assert network.left == 0


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
    """If the answer is lost once; a caller that is told of it, and starts anew, has two."""
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
