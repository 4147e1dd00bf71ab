"""``celery -A APP workflows``, with runs in eager mode."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from orchestrator import Orchestrator, Retry
from orchestrator.cli.workflows.group import workflows
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.references import ITEM
from orchestrator.workflows.svg import layers_of
from tests.apps import workflows_app
from tests.apps.workflows_app import List, Square
from tests.support.command_line import invoke


@pytest.fixture
def orchestrator() -> Orchestrator:
    return workflows_app.make(eager=True)


def _document(orchestrator: Orchestrator, *arguments: str) -> Any:
    return json.loads(invoke(orchestrator.app, workflows, *arguments, "--json").stdout)


def _waiting(orchestrator: Orchestrator, workflow_id: str = "book 1") -> None:
    flow = Workflow("book")
    numbers = flow.step("list", List(count=2), to="counter")
    flow.map("page", Square, over=numbers.result["numbers"], fields={"number": ITEM}, to="counter")
    approval = flow.wait("approval", event="approved", after=numbers)
    flow.step("print", orchestrator.app.tasks["plain.add"].s(approval.result, 1))
    orchestrator.workflows.start(flow, workflow_id=workflow_id)


def _failed(orchestrator: Orchestrator) -> None:
    flow = Workflow("fails")
    failed = flow.step("fails", orchestrator.app.tasks["plain.fail"].s(), retry=Retry(max_retries=0))
    flow.step("never", orchestrator.app.tasks["plain.note"].s("never"), after=failed)
    orchestrator.workflows.start(flow, workflow_id="f1")


def test_runs_are_listed_by_name_and_state(orchestrator: Orchestrator) -> None:
    assert "none" in invoke(orchestrator.app, workflows, "list").stdout
    _waiting(orchestrator)
    _failed(orchestrator)
    table = invoke(orchestrator.app, workflows, "list").stdout
    assert all(text in table for text in ("book 1", "running", "f1", "failed"))
    assert [run["id"] for run in _document(orchestrator, "list")["runs"]] == ["f1", "book 1"]
    assert [run["id"] for run in _document(orchestrator, "list", "--state", "failed")["runs"]] == ["f1"]
    assert [run["id"] for run in _document(orchestrator, "list", "--name", "book")["runs"]] == ["book 1"]
    refused = invoke(orchestrator.app, workflows, "list", "--state", "nosuch")
    assert (refused.exit_code, "'nosuch'" in refused.stderr) == (2, True)


def test_a_run_is_shown_with_its_progress_and_why_a_step_failed(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator)
    _failed(orchestrator)
    shown = invoke(orchestrator.app, workflows, "show", "book 1").stdout
    assert all(text in shown for text in ("60%", "2 of 2", "suspended", "all_handled"))
    assert "it fails" in invoke(orchestrator.app, workflows, "show", "f1").stdout
    document = _document(orchestrator, "show", "book 1", "--state", "handled")
    assert (document["state"], document["ended"], document["progress"]) == ("running", False, 0.6)
    assert [step["name"] for step in document["steps"]] == ["list", "page"]
    assert document["steps"][0]["outcome"]["result"] == {"numbers": [0, 1]}
    assert len(_document(orchestrator, "show", "book 1", "--limit", "1")["steps"]) == 1


def test_each_undo_is_shown_with_its_letter(orchestrator: Orchestrator) -> None:
    flow = Workflow("saga", on_failure="compensate")
    numbers = flow.step("list", List(count=2), to="counter")
    over = numbers.result["numbers"]
    pages = flow.map("page", Square, over=over, fields={"number": ITEM}, to="counter", undo=Square(number=13))
    flow.step("fails", orchestrator.app.tasks["plain.fail"].s(), retry=Retry(max_retries=0), after=pages)
    orchestrator.workflows.start(flow, workflow_id="s1")
    document = _document(orchestrator, "show", "s1")
    assert [(undo["number"], undo["step"], undo["state"]) for undo in document["undos"]] == [
        ("u1.1", "page[1]", "dead"),
        ("u1.0", "page[0]", "dead"),
    ]
    letter_ids = [undo["outcome"]["letter_id"] for undo in document["undos"]]
    shown = " ".join(invoke(orchestrator.app, workflows, "show", "s1").stdout.split())
    assert all(text in shown for text in ("Undos: 2", "page[1].undo", "page[0].undo", *letter_ids))
    assert _document(orchestrator, "explain", "s1")["lines"][1].startswith("page[1].undo: dead: ")


def test_in_a_run_that_has_ended_nothing_waits(orchestrator: Orchestrator) -> None:
    _failed(orchestrator)
    shown = invoke(orchestrator.app, workflows, "show", "f1").stdout
    assert ("never began" in shown, "waiting" in shown) == (True, False)


def test_counts_say_whether_items_of_maps_are_in_them(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator)
    _failed(orchestrator)
    assert "ended, with items of maps" in invoke(orchestrator.app, workflows, "show", "book 1").stdout
    assert "with items" not in invoke(orchestrator.app, workflows, "show", "f1").stdout


@pytest.mark.parametrize("arguments", [("list", "--state", "completedx"), ("show", "f1", "--state", "handledx")])
def test_an_unknown_state_is_refused_with_the_nearest(orchestrator: Orchestrator, arguments: tuple[str, ...]) -> None:
    _failed(orchestrator)
    refused = invoke(orchestrator.app, workflows, *arguments)
    assert refused.exit_code == 2
    assert "did you mean 'completed'?" in refused.stderr or "did you mean 'handled'?" in refused.stderr


def test_a_retry_that_is_too_late_says_why(orchestrator: Orchestrator) -> None:
    flow = Workflow("guarded")
    failed = flow.step("fails", orchestrator.app.tasks["plain.fail"].s(), retry=Retry(max_retries=0))
    flow.step("instead", orchestrator.app.tasks["plain.note"].s("instead"), after=failed, when="any_failed")
    orchestrator.workflows.start(flow, workflow_id="g1")
    refused = invoke(orchestrator.app, workflows, "retry", "g1", "fails")
    assert refused.stderr in (
        "Error: g1: run completed; it is too late, for the run has gone on without this step\n",
        "Error: g1: others began; it is too late, for other steps have begun on the failure of this one\n",
    )


def test_a_run_is_explained(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator)
    lines = invoke(orchestrator.app, workflows, "explain", "book 1").stdout.splitlines()
    assert lines[1:] == ["approval: waits for the event approved", "print: waits for approval"]
    assert _document(orchestrator, "explain", "book 1")["lines"] == lines


def test_a_run_is_posted_to_paused_resumed_and_cancelled(orchestrator: Orchestrator) -> None:
    def act(*arguments: str) -> tuple[int, str]:
        result = invoke(orchestrator.app, workflows, *arguments)
        return result.exit_code, result.output.strip()

    _waiting(orchestrator)
    _waiting(orchestrator, "book 2")
    assert act("resume", "book 1") == (1, "Error: book 1: not paused")
    assert act("pause", "book 1") == (0, "book 1: done")
    assert act("pause", "book 1") == (1, "Error: book 1: paused already")
    assert "running, paused" in invoke(orchestrator.app, workflows, "list", "--state", "paused").stdout
    assert act("post", "book 1", "approved", "{") == (
        2,
        "Error: the payload is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    )
    assert act("post", "book 1", "approved", "41") == (0, "book 1: done")
    assert _document(orchestrator, "resume", "book 1")["result"] == "done"
    assert orchestrator.workflows.get("book 1").result("print") == 42
    assert act("cancel", "book 1") == (1, "Error: book 1: too late")
    assert act("cancel", "book 2", "--compensate") == (0, "book 2: done")
    assert act("cancel", "nobody")[0] == 2


def test_a_run_is_drawn(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator)
    graph = _document(orchestrator, "graph", "book 1")
    assert graph["edges"] == [{"from": "0", "to": "1"}, {"from": "0", "to": "2"}, {"from": "2", "to": "3"}]
    assert graph["counts"] == {"handled": 2, "suspended": 1, "waiting": 1}
    assert graph["steps"][1]["items"] == {"count": 2, "ended": 2, "unhandled": 0}
    mermaid = invoke(orchestrator.app, workflows, "graph", "book 1").stdout.splitlines()
    assert mermaid[:3] == [
        "flowchart LR",
        '    s0["list<br/>handled"]:::handled',
        '    s1[["page<br/>handled, 2 of 2 items"]]:::handled',
    ]
    assert "    s2 --> s3" in mermaid
    picture = ET.fromstring(invoke(orchestrator.app, workflows, "graph", "book 1", "--svg").stdout)
    assert picture[0].text == "book book 1: running"
    assert len(picture.findall("{http://www.w3.org/2000/svg}g")) == 4
    assert invoke(orchestrator.app, workflows, "graph", "book 1", "--svg", "--json").exit_code == 2


def test_an_id_cannot_break_out_of_the_picture(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator, "<b>&\x1b")
    picture = ET.fromstring(invoke(orchestrator.app, workflows, "graph", "<b>&\x1b", "--svg").stdout)
    assert picture[0].text == "book <b>&\\x1b: running"


def test_a_step_is_drawn_right_of_all_that_it_depends_on() -> None:
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("x", "y"), ("y", "c")]
    layers = layers_of(list("cyxab"), edges)
    place = {name: at for at, layer in enumerate(layers) for name in layer}
    assert all(place[first] < place[then] for first, then in edges)
    assert sorted(map(len, layers)) == [1, 2, 2]
    # Not crossed: each above or below what it is connected with.
    assert layers[0].index("a") == layers[1].index("b")


def test_a_workflow_is_paused_and_resumed_and_a_run_deleted(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator)
    app = orchestrator.app
    assert invoke(app, workflows, "pause", "--name", "book").stdout == "book: 1 run paused\n"
    _waiting(orchestrator, "book 2")
    assert _document(orchestrator, "resume", "--name", "book") == {"name": "book", "resumed": 2}
    assert invoke(app, workflows, "pause").exit_code == 2
    assert invoke(app, workflows, "pause", "book 1", "--name", "book").exit_code == 2
    assert invoke(app, workflows, "delete", "book 1").stderr == "Error: book 1: not ended\n"
    orchestrator.workflows.get("book 1").cancel()
    assert invoke(app, workflows, "delete", "book 1").stdout == "book 1: done\n"
    assert invoke(app, workflows, "show", "book 1").exit_code == 2


def test_a_step_is_retried_and_a_run_forked(orchestrator: Orchestrator) -> None:
    _waiting(orchestrator)
    _failed(orchestrator)
    app = orchestrator.app
    assert invoke(app, workflows, "retry", "f1", "fails").stdout == "f1: done\n"
    assert invoke(app, workflows, "retry", "f1", "never").stderr == (
        "Error: f1: not failed; allowed: a step that is dead, expired or cancelled\n"
    )
    assert invoke(app, workflows, "retry", "f1", "nothing").exit_code == 2
    assert invoke(app, workflows, "fork", "book 1", "--after", "list", "--id", "b2").stdout == "book 1: forked as b2\n"
    assert _document(orchestrator, "show", "b2")["state"] == "running"
    # The same fork is there already; another one needs another id.
    assert invoke(app, workflows, "fork", "book 1", "--after", "list", "--id", "b2").stdout == "book 1: forked as b2\n"
    refused = invoke(app, workflows, "fork", "f1", "--after", "fails", "--id", "b2")
    assert (refused.exit_code, "b2" in refused.stderr) == (2, True), refused.stderr


def test_a_workflow_function_is_started_by_its_name(orchestrator: Orchestrator) -> None:
    app = orchestrator.app
    assert (
        invoke(app, workflows, "start", "squares", "--args", "[2]", "--id", "s1").stdout == "squares: started as s1\n"
    )
    assert _document(orchestrator, "show", "s1")["state"] == "completed"
    named = _document(orchestrator, "start", "squares", "--args", '{"count": 3}')
    assert orchestrator.workflows.get(named["id"]).result()["total"] == 9 + 0 + 1 + 4
    again = _document(orchestrator, "start", "squares", "--args", "[2]", "--id", "s1")
    assert again["uid"] == orchestrator.workflows.get("s1").uid


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["squarez"], "unknown workflow function 'squarez'; known: approval, caught, "),
        (["squares", "--args", "[2"], "--args is no JSON: "),
        (["squares", "--args", "2"], "--args '2'; allowed: a list or an object"),
        (["squares"], "invalid workflow 'squares': its arguments: missing a required argument: 'count'"),
        (
            ["squares", "--args", '{"count": 2, "workflow_id": "w"}'],
            "--args has workflow_id; allowed: arguments of squares",
        ),
        (["squares", "--args", "[2]", "--deadline", "-1"], "deadline_s"),
    ],
)
def test_what_cannot_be_started(orchestrator: Orchestrator, arguments: list[str], said: str) -> None:
    refused = invoke(orchestrator.app, workflows, "start", *arguments)
    assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
