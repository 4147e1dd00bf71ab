"""Public faults of Celery's canvas, as canvas in eager mode and on real workers: failures."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, chord, group

from orchestrator import Dead, Retry, SendFailed, Workflow
from orchestrator.workflows.run import Run
from tests.support.workflow_cluster import WorkflowCluster

ONCE = Retry(max_retries=0)


def _ended(cluster: WorkflowCluster, canvas: Any) -> Run:
    return cluster.ended(Workflow.from_canvas(canvas, retry=ONCE))


def test_a_chord_with_a_failed_part_ends_and_nothing_polls_for_it(cluster: WorkflowCluster) -> None:
    """celery#9674: an error in ``chord_unlock`` was retried for ever; here nothing waits for a chord but its run."""
    run = _ended(cluster, chord([cluster.task("fail"), cluster.task("add", 1)], cluster.task("total")))
    status = run.status()
    assert (status.state, status.open, status.dead, status.handled) == ("failed", 0, 1, 1)
    with pytest.raises(SendFailed, match="ValueError: it fails"):
        run.result()
    if cluster.has_worker:
        assert all(row.pending == 0 for row in cluster.orchestrator.ledger())


def _complex(cluster: WorkflowCluster, failing: str) -> Any:
    """A chain with a chord of chains, in which the named part fails."""
    task = cluster.task

    def part(name: str, *args: Any) -> Any:
        return task("fail") if name == failing else task("add", *args)

    header = [chain(part("first", 1), part("second", 2)), group(part("nested", 3), task("add", 4))]
    body = task("fail") if failing == "body" else task("total")
    return chain(part("before", 0), chord(header, body), part("after", 5))


@pytest.mark.parametrize("failing", ["before", "first", "second", "nested", "body", "after"])
def test_the_errback_of_a_complex_canvas_is_called_once_whichever_part_fails(
    cluster: WorkflowCluster, failing: str
) -> None:
    """celery#4048, celery#3317, celery#3709: ``link_error`` was not called, or with wrong arguments."""
    canvas = _complex(cluster, failing)
    canvas.link_error(cluster.task("failed"))
    run = _ended(cluster, canvas)
    assert run.status().state == "failed"
    notes = cluster.noted()
    assert notes[0] == "fail"
    assert len(notes) == 2
    assert notes[1].startswith("plain.fail ")
    assert notes[1].endswith(" SendFailed ValueError: it fails")


def test_an_errback_of_a_group_is_called_for_each_part_that_fails(cluster: WorkflowCluster) -> None:
    parts = group(cluster.task("fail"), cluster.task("add", 1), cluster.task("fail"))
    parts.link_error(cluster.task("failed_id"))
    _ended(cluster, parts)
    assert sorted(cluster.noted()) == ["fail", "fail", "failed 0", "failed 4"]


def test_a_failed_errback_hides_no_failure(cluster: WorkflowCluster) -> None:
    failing = cluster.task("fail")
    failing.link_error(cluster.task("fail"))
    run = _ended(cluster, chain(failing, cluster.task("note", "never")))
    assert (run.status().state, run.status().dead) == ("failed", 2)
    assert isinstance(run.outcome("plain.fail-1"), Dead)
    assert cluster.noted() == ["fail", "fail"]


def test_a_step_may_follow_a_chord_even_if_a_part_fails(cluster: WorkflowCluster) -> None:
    """celery#1881, asked for since 2014: a callback that runs once all parts have ended, failed ones included."""
    flow = Workflow.from_canvas(
        chord([cluster.task("fail"), cluster.task("add", 1)], cluster.task("total")), retry=ONCE
    )
    header = [step.name for step in flow.steps if step.name != "plain.total-1"]
    flow.step("finally", cluster.task("note", "all have ended"), after=header, when="all_ended")
    run = cluster.ended(flow)
    assert run.result("finally") == "all have ended"
    assert cluster.noted() == ["fail", "all have ended"]
