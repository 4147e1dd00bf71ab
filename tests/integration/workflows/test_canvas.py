"""Canvas as a workflow, in eager mode and on real workers alike."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, chord, group

from orchestrator import Retry, Workflow
from orchestrator.core.deliveries.outcome import Dead
from orchestrator.core.errors import InvalidWorkflow, SendFailed
from orchestrator.workflows.run import Run
from tests.support.workflow_cluster import WorkflowCluster

ONCE = Retry(max_retries=0)


def _ended(cluster: WorkflowCluster, canvas: Any) -> Run:
    return cluster.ended(Workflow.from_canvas(canvas, retry=ONCE))


def test_a_chord_in_a_chain_in_a_group(cluster: WorkflowCluster) -> None:
    task = cluster.task
    sums = chord([task("add", n, n) for n in range(5)], task("total"))
    canvas = group(chain(sums, task("add", 100)), chain(task("add", 1, 2), group(task("add", 10), task("add", 20))))
    run = _ended(cluster, canvas)
    assert (run.status().state, run.result(), run.progress()) == ("completed", [120, [13, 23]], 1.0)
    assert run.result("plain.total-1") == 20


def test_a_group_after_a_group_waits_for_all_of_it_through_a_join(cluster: WorkflowCluster) -> None:
    count = 20
    first = group(cluster.task("add", n) for n in range(count))
    flow = Workflow.from_canvas(chord(first, group(cluster.task("total") for _ in range(count))))
    assert sum(len(step.after) for step in flow.steps) == 2 * count
    run = cluster.ended(flow)
    assert run.result() == [190] * count


def test_an_immutable_task_and_keywords(cluster: WorkflowCluster) -> None:
    canvas = chain(
        cluster.task("note", "first"), cluster.task("note").clone(kwargs={"what": "second"}).set(immutable=True)
    )
    run = _ended(cluster, canvas)
    assert (run.result(), cluster.noted()) == ("second", ["first", "second"])


def test_a_callback_gets_the_result_and_is_no_part_of_it(cluster: WorkflowCluster) -> None:
    signature = cluster.task("add", 1, 2)
    signature.link(cluster.task("note"))
    canvas = chain(signature, cluster.task("add", 10))
    canvas.link(cluster.task("note"))
    run = _ended(cluster, canvas)
    assert run.result() == 13
    assert sorted(map(str, cluster.noted())) == ["13", "3"]


def test_a_failed_callback_fails_the_run_and_not_its_result(cluster: WorkflowCluster) -> None:
    signature = cluster.task("add", 1, 2)
    signature.link(cluster.task("fail"))
    run = _ended(cluster, chain(signature, cluster.task("add", 10)))
    assert (run.status().state, run.result()) == ("failed", 13)


def test_an_errback_is_given_the_request_and_the_error(cluster: WorkflowCluster) -> None:
    canvas = chain(cluster.task("add", 1), cluster.task("fail"), cluster.task("note", "never"))
    canvas.link_error(cluster.task("failed"))
    run = _ended(cluster, canvas)
    assert run.status().state == "failed"
    assert cluster.noted() == ["fail", "plain.fail 1 SendFailed ValueError: it fails"]
    with pytest.raises(SendFailed, match=rf"{run.uid}\.1 was not handled") as error:
        run.result()
    assert isinstance(error.value.outcome, Dead)


def test_an_errback_with_one_argument_is_given_the_id_and_an_immutable_one_nothing(cluster: WorkflowCluster) -> None:
    failing = cluster.task("fail")
    failing.link_error(cluster.task("failed_id"))
    failing.link_error(cluster.task("note", "immutable").set(immutable=True))
    _ended(cluster, failing)
    assert sorted(cluster.noted()) == ["fail", "failed 0", "immutable"]


def test_an_errback_of_a_later_task_is_not_called_for_an_earlier_one(cluster: WorkflowCluster) -> None:
    later = cluster.task("add", 1)
    later.link_error(cluster.task("failed_id"))
    run = _ended(cluster, chain(cluster.task("fail"), later))
    assert (run.status().state, cluster.noted()) == ("failed", ["fail"])
    assert run.explain()[-1] == "plain.failed_id-1: never began, for the run is failed"


def test_an_errback_of_a_chords_body_is_called_once_for_its_header(cluster: WorkflowCluster) -> None:
    body = cluster.task("total")
    body.link_error(cluster.task("failed_id"))
    run = _ended(cluster, chord([cluster.task("fail"), cluster.task("add", 1), cluster.task("fail")], body))
    assert run.status().state == "failed"
    notes = cluster.noted()
    assert len(notes) == 3
    assert notes.count("fail") == 2
    assert {"failed 0", "failed 2"} & set(notes)


def test_the_other_tasks_of_a_group_go_on(cluster: WorkflowCluster) -> None:
    run = _ended(cluster, group(cluster.task("fail"), chain(cluster.task("add", 1), cluster.task("add", 2))))
    assert (run.status().state, run.result("plain.add-2")) == ("failed", 3)


def test_a_countdown_is_a_step_that_waits(cluster: WorkflowCluster) -> None:
    canvas = chain(cluster.task("add", 1), group(cluster.task("add", 2), cluster.task("add", 3)).set(countdown=0.01))
    run = _ended(cluster, canvas)
    assert run.result() == [3, 4]
    assert [step.name for step in run.steps() if "countdown" in step.name] == ["countdown-1", "countdown-2"]


def test_what_has_no_counterpart_is_named(cluster: WorkflowCluster) -> None:
    add = cluster.task("add", 1)
    failing = add.clone()
    failing.link_error(group(add, add))
    with pytest.raises(InvalidWorkflow) as error:
        Workflow.from_canvas(chain(failing, add.clone().set(task_id="mine"), chord([add, add])))
    assert [problem.partition(";")[0] for problem in error.value.problems] == [
        "plain.add: link_error='celery.group'",
        "plain.add: task_id='mine'",
        "celery.chord: body=None",
    ]
    with pytest.raises(InvalidWorkflow, match="it has no steps"):
        cluster.orchestrator.workflows.start(Workflow.from_canvas(group([]), "nothing"))
    with pytest.raises(InvalidWorkflow, match=r"signature options \['expires'\]"):
        cluster.orchestrator.workflows.start(Workflow.from_canvas(add.clone().set(expires=5)))
    with pytest.raises(InvalidWorkflow, match="'work' is no canvas"):
        Workflow.from_canvas("work")
