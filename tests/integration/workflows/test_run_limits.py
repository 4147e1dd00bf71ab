"""How many runs may be out at a time."""

from __future__ import annotations

import pytest

from orchestrator import InvalidWorkflow, Limit, Orchestrator, Workflow
from orchestrator.workflows.run import Run


def _start(orchestrator: Orchestrator, limit: Limit | int, name: str = "waits") -> Run:
    flow = Workflow(name, max_running=limit)
    first = flow.wait("approval", event="approved")
    flow.join("end", after=first)
    return orchestrator.workflows.start(flow)


def _states(*runs: Run) -> list[str]:
    return [run.status().state.value for run in runs]


def test_further_runs_are_queued_and_begin_in_their_order(orchestrator: Orchestrator) -> None:
    runs = [_start(orchestrator, 2) for _ in range(5)]
    assert _states(*runs) == ["running", "running", "queued", "queued", "queued"]
    assert "begins once its run does" in runs[2].explain()[1]
    runs[1].post("approved")
    assert _states(*runs) == ["running", "completed", "running", "queued", "queued"]
    runs[0].cancel()
    runs[2].post("approved")
    assert _states(*runs) == ["cancelled", "completed", "completed", "running", "running"]


def test_what_happens_to_a_queued_run(orchestrator: Orchestrator) -> None:
    first, cancelled, posted, paused = (_start(orchestrator, 1) for _ in range(4))
    assert cancelled.cancel() == "done"
    assert posted.post("approved") == "done"
    assert paused.pause() == "done"
    assert _states(cancelled, posted, paused) == ["cancelled", "queued", "queued"]
    first.post("approved")
    # The second has ended, the third ends as soon as it begins, and the last one begins paused.
    assert _states(first, posted, paused) == ["completed", "completed", "running"]
    assert paused.explain()[1] == "approval: begins when the run is resumed"
    paused.resume()
    paused.post("approved")
    assert _states(paused) == ["completed"]


def test_many_queued_runs_that_end_at_once(orchestrator: Orchestrator) -> None:
    runs = [_start(orchestrator, 1) for _ in range(60)]
    for run in runs[1:]:
        run.post("approved")
    runs[0].post("approved")
    for _ in range(60):
        if not orchestrator.eager:
            orchestrator.runtime.redis.runs.upkeep.work_off()
    assert set(_states(*runs)) == {"completed"}


def test_the_oldest_run_is_cancelled_for_a_newer_one(orchestrator: Orchestrator) -> None:
    limit = Limit(1, strategy="cancel_in_progress")
    first, second = _start(orchestrator, limit), _start(orchestrator, limit)
    assert _states(first, second) == ["cancelled", "running"]
    assert first.status().because == "a newer run began"


def test_the_newest_run_is_cancelled(orchestrator: Orchestrator) -> None:
    limit = Limit(1, strategy="cancel_newest")
    first, second = _start(orchestrator, limit), _start(orchestrator, limit)
    assert _states(first, second) == ["running", "cancelled"]
    assert second.status().because == "limit reached"
    first.post("approved")
    assert _states(_start(orchestrator, limit)) == ["running"]


def test_workflows_share_a_limit_by_its_key(orchestrator: Orchestrator) -> None:
    limit = Limit(1, key="customer-7")
    first = _start(orchestrator, limit, "one")
    other = _start(orchestrator, limit, "two")
    apart = _start(orchestrator, Limit(1, key="customer-8"), "two")
    assert _states(first, other, apart) == ["running", "queued", "running"]
    first.post("approved")
    assert _states(other) == ["running"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (0, "max_running=0; allowed: a whole number from 1"),
        (Limit(1, key="a b"), "limit key 'a b'"),
        (Limit(1, strategy="newest"), "limit strategy 'newest'; allowed: queue, cancel_in_progress, cancel_newest"),
    ],
)
def test_a_bad_limit_is_refused(orchestrator: Orchestrator, limit: Limit | int, said: str) -> None:
    with pytest.raises(InvalidWorkflow, match=said):
        _start(orchestrator, limit)
