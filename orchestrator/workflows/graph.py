"""A run as JSON data that a page can draw, and as a Mermaid flowchart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from orchestrator.core.plural import counted
from orchestrator.core.workflows.plan import Kind, StepPlan, When
from orchestrator.workflows.records import RunDetails, StepRecord, StepState

_KINDS: Final = {Kind.TASK: "task", Kind.JOIN: "join", Kind.MAP: "map", Kind.WAIT: "wait"}

#: What encloses a step's text in Mermaid, by its kind.
_SHAPES: Final = {"task": ("[", "]"), "map": ("[[", "]]"), "join": ("([", "])"), "wait": ("{{", "}}")}

#: Fill and line of a step by its state: Mermaid and the SVG drawing have the same.
COLOURS: Final = {
    StepState.WAITING: ("#ffffff", "#8a8f98"),
    StepState.READY: ("#eef2ff", "#4f6bed"),
    StepState.SENT: ("#dbe7ff", "#2f55d4"),
    StepState.ITEMS_SENT: ("#dbe7ff", "#2f55d4"),
    StepState.SUSPENDED: ("#fff4d6", "#b7791f"),
    StepState.UNPLACED: ("#fff4d6", "#b7791f"),
    StepState.EXPANDED: ("#dbe7ff", "#2f55d4"),
    StepState.CALLING: ("#dbe7ff", "#2f55d4"),
    StepState.HANDLED: ("#ddf3e0", "#2b8a3e"),
    StepState.DEAD: ("#fde0e0", "#c92a2a"),
    StepState.EXPIRED: ("#fde0e0", "#c92a2a"),
    StepState.CANCELLED: ("#e9ecef", "#495057"),
    StepState.SKIPPED: ("#f1f3f5", "#adb5bd"),
}


def graph_of(details: RunDetails) -> dict[str, Any]:
    """A run as JSON data.

    ``run`` has the fields of its status; ``steps`` its steps in the order of their declaration, by ``number``;
    ``edges`` the numbers of a step and of one that depends on it, has taken its place, or was called by it; ``counts``
    the number of steps by state.
    """
    counts = Counter(step.state.value for step in details.steps)
    return {
        "run": {**asdict(details.status), "ended": details.status.ended},
        "steps": [_step(step) for step in details.steps],
        "edges": list(_edges(details)),
        "counts": dict(sorted(counts.items())),
    }


def _edges(details: RunDetails) -> Iterator[dict[str, str]]:
    numbers = {step.name: step for step in details.steps}
    for step in details.steps:
        for number in _plan(step).dependents:
            yield {"from": step.number, "to": str(number)}
        for name in step.expansion:
            # From it to those that begin at once.
            if numbers[name].dependencies == 0:
                yield {"from": step.number, "to": numbers[name].number}


def _plan(step: StepRecord) -> StepPlan:
    return step.plan or StepPlan(step.name)


def _step(step: StepRecord) -> dict[str, Any]:
    plan = _plan(step)
    items = None
    if step.items is not None:
        items = dict(zip(("count", "ended", "unhandled"), step.items, strict=True))
    return {
        "number": step.number,
        "name": step.name,
        "kind": _KINDS[plan.kind],
        "state": step.state.value,
        "queue": step.placed or plan.queue,
        "needs": list(step.needs),
        "when": plan.when.value,
        "guarded": plan.guarded,
        "undo": plan.undo,
        "event": plan.options.get("event"),
        "items": items,
    }


def label_of(step: dict[str, Any]) -> str:
    """The state of a step of a graph in words, with its items."""
    items = step["items"]
    if items is None or step["state"] == StepState.CANCELLED:
        return str(step["state"])
    return f"{step['state']}, {items['ended']} of {counted(items['count'], 'item')}"


def mermaid(graph: dict[str, Any]) -> str:
    """A graph as a Mermaid flowchart, from left to right."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: dict[str, Any]) -> Iterator[str]:
    yield "flowchart LR"
    conditions = {}
    for step in graph["steps"]:
        before, after = _SHAPES[step["kind"]]
        shown = step["state"].replace(" ", "_")
        yield f'    s{step["number"]}{before}"{step["name"]}<br/>{label_of(step)}"{after}:::{shown}'
        if step["when"] != When.ALL_HANDLED:
            conditions[step["number"]] = step["when"]
    for edge in graph["edges"]:
        condition = conditions.get(edge["to"])
        arrow = f"-->|{condition}|" if condition else "-->"
        yield f"    s{edge['from']} {arrow} s{edge['to']}"
    for state in sorted({step["state"] for step in graph["steps"]}):
        fill, line = COLOURS[StepState(state)]
        yield f"    classDef {state.replace(' ', '_')} fill:{fill},stroke:{line},color:#1b1f24"
