"""``celery -A APP workflows list | show | explain | graph``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.outcomes import outcome_document, outcome_line
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.output.watching import refuse_json, watch, watch_option
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, reported
from orchestrator.cli.workflows.control import run_id
from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.spelling.nearest import meant
from orchestrator.core.times import age, moment

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.cli.output.tables import Console, Toned
    from orchestrator.workflows.records import RunDetails, RunStatus, StepRecord, UndoRecord

#: Steps of a picture, at most.
_MOST_DRAWN = 2000

#: States of runs and of steps, by how they are shown.
_GOOD = frozenset({"running", "completed", "compensated", "handled", "sent", "items sent"})
_BAD = frozenset({"failed", "compensation failed", "dead", "expired"})


def _limit_option(what: str, default: int) -> Any:
    return click.option(
        "--limit",
        type=click.IntRange(1, 1_000_000),
        default=default,
        show_default=True,
        cls=CeleryOption,
        help=f"Show at most this many {what}.",
    )


@click.command(cls=CeleryCommand, name="list", epilog=EXIT_CODES)
@click.option("--name", metavar="NAME", cls=CeleryOption, help="List runs of this workflow.")
@click.option("--state", metavar="STATE", cls=CeleryOption, help="List runs in this state, or those that are `paused`.")
@_limit_option("runs", 50)
@as_json_option
@click.pass_context
@reported
def list_runs(context: click.Context, name: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the runs that are kept, the newest first."""
    found = list(islice(orchestrator_of(context).workflows.list(name=name, state=state), limit))
    if as_json:
        print_document({"runs": [{**asdict(run), "ended": run.ended} for run in found]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        f"Runs: {len(found)}" + (" (there may be more)" if len(found) == limit else ""),
        ("id", "workflow", "state", "steps", "out", "handled", "failed", "cancelled", "skipped", "started", "took"),
        [
            (
                run.id,
                run.name,
                _state_cell(run),
                run.total,
                run.open,
                run.handled,
                run.dead + run.expired,
                run.cancelled,
                run.skipped,
                moment(run.started_ms),
                age(_took_s(run)),
            )
            for run in found
        ],
        fold=("id",),
        drop=("skipped", "cancelled", "took", "out", "steps", "started"),
    )


@click.command(cls=CeleryCommand, name="show", epilog=EXIT_CODES)
@run_id
@click.option("--state", metavar="STATE", cls=CeleryOption, help="Show only the steps in this state.")
@_limit_option("steps", 100)
@watch_option("the run has ended or Ctrl-C")
@as_json_option
@click.pass_context
@reported
def show_run(
    context: click.Context, run_id: str, state: str | None, limit: int, interval_s: float | None, as_json: bool
) -> None:
    """Show run ID: its state, its progress, its steps with what they depend on and why they failed, its undos."""
    refuse_json(interval_s, as_json)
    orchestrator = orchestrator_of(context)
    _check_state(state)
    run = orchestrator.workflows.get(run_id)
    if as_json:
        details = run.details()
        chosen = [
            {**step, "outcome": outcome_document(run.outcome(record), orchestrator.runtime.hidden.names)}
            for record, step in islice(_chosen(details, state), limit)
        ]
        status = {**asdict(details.status), "ended": details.status.ended}
        undos = [_undo_document(undo, orchestrator) for undo in details.undos[:limit]]
        print_document({**status, "progress": round(details.progress, 4), "steps": chosen, "undos": undos})
    elif interval_s is None:
        _print_run(context, orchestrator, run.details(), state, limit)
    else:
        watch(
            interval_s,
            run.details,
            lambda seen: _print_run(context, orchestrator, seen, state, limit),
            lambda seen: seen.status.ended,
        )


def _check_state(state: str | None) -> None:
    from orchestrator.workflows.records import StepState

    if state is not None and state not in list(StepState):
        allowed = f"{', '.join(StepState)}{meant(state, StepState)}"
        raise Stop(f"--state {state!r} is not allowed; allowed: {allowed}", ExitCode.CALLER)


def _chosen(details: RunDetails, state: str | None) -> Iterator[tuple[StepRecord, dict[str, Any]]]:
    """The steps in a state, each with its document."""
    from orchestrator.workflows.graph import graph_of

    for record, step in zip(details.steps, graph_of(details)["steps"], strict=True):
        if state in (None, record.state):
            yield record, step


def _print_run(
    context: click.Context, orchestrator: Orchestrator, details: RunDetails, state: str | None, limit: int
) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_fields, print_table

    out, status = console(context), details.status
    chosen = [step for step in details.steps if state in (None, step.state)]
    run = orchestrator.workflows.get(status.uid)
    print_fields(
        out,
        f"Run {status.id} of {status.name}",
        {
            "state": _state_cell(status),
            "because": status.because,
            "progress": f"{details.progress:.0%}",
            "uid": status.uid,
            "started": moment(status.started_ms),
            "took": age(_took_s(status)),
            "out": str(status.open),
            _ended_label(details): ", ".join(
                f"{name} {number}"
                for name in ("handled", "dead", "expired", "cancelled", "skipped")
                if (number := getattr(status, name))
            ),
        },
    )
    print_table(
        out,
        f"Steps: {len(chosen)}" + (f", the first {limit} of them" if len(chosen) > limit else ""),
        ("step", "state", "items", "mailbox", "begins on", "outcome"),
        [
            (
                step.name,
                _step_cell(step, status),
                _items(step),
                _mailbox(step),
                _condition(step),
                _line(run.outcome(step), orchestrator) if step.state in _BAD else "",
            )
            for step in chosen[:limit]
        ],
        fold=("outcome",),
        drop=("begins on", "mailbox"),
    )
    if details.undos:
        _print_undos(out, orchestrator, details.undos, limit)


def _print_undos(out: Console, orchestrator: Orchestrator, undos: Sequence[UndoRecord], limit: int) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import print_table

    print_table(
        out,
        f"Undos: {len(undos)}" + (f", the first {limit} of them" if len(undos) > limit else ""),
        ("undo", "state", "outcome"),
        [(undo.name, _toned(undo.state), _line(undo.outcome, orchestrator)) for undo in undos[:limit]],
        fold=("outcome",),
    )


def _undo_document(undo: UndoRecord, orchestrator: Orchestrator) -> dict[str, Any]:
    outcome = outcome_document(undo.outcome, orchestrator.runtime.hidden.names)
    return {"number": undo.number, "step": undo.step, "state": undo.state.value, "outcome": outcome}


def _line(outcome: Outcome | None, orchestrator: Orchestrator) -> str:
    return "" if outcome is None else outcome_line(outcome, orchestrator.runtime.hidden.names)


def _mailbox(step: StepRecord) -> str:
    """The recipient of its messages: of a step with needs the agent that it was placed with, or its needs."""
    if step.needs:
        return step.placed or f"needs {', '.join(step.needs)}"
    return step.plan.queue if step.plan is not None else ""


def _items(step: StepRecord) -> str:
    if step.items is None:
        return ""
    count, ended, unhandled = step.items
    unplaced = f", {step.unplaced} unplaced" if step.unplaced else ""
    return f"{ended} of {count}" + (f", {unhandled} not handled" if unhandled else "") + unplaced


def _condition(step: StepRecord) -> str:
    return step.plan.when.value if step.plan is not None and step.dependencies else ""


def _ended_label(details: RunDetails) -> str:
    """The unit of the counts by outcome: the table of steps has one row for a map."""
    return "ended, with items of maps" if any(step.items is not None for step in details.steps) else "ended"


def _step_cell(step: StepRecord, status: RunStatus) -> Toned:
    """The state of a step; in a run that has ended, nothing waits any more."""
    if status.ended and step.state in ("waiting", "ready"):
        return _toned("never began")
    return _toned(step.state)


def _state_cell(status: RunStatus) -> Toned:
    paused = status.paused and not status.ended
    return _toned(status.state, ", paused" if paused else "")


def _toned(state: str, more: str = "") -> Toned:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import Tone, Toned

    if state in _BAD:
        return Toned(f"{state}{more}", Tone.BAD)
    return Toned(f"{state}{more}", Tone.GOOD if state in _GOOD and not more else Tone.WARNING)


def _took_s(status: RunStatus) -> float:
    """By this host's clock, if it has not ended."""
    return max(0.0, (status.ended_ms or time.time() * 1000) - status.started_ms) / 1000


@click.command(cls=CeleryCommand, name="explain", epilog=EXIT_CODES)
@run_id
@as_json_option
@click.pass_context
@reported
def explain_run(context: click.Context, run_id: str, as_json: bool) -> None:
    """Say why each step of run ID that has not ended waits, a line each."""
    lines = orchestrator_of(context).workflows.get(run_id).explain()
    if as_json:
        print_document({"lines": lines})
        return
    for line in lines:
        click.echo(one_line(line))


@click.command(cls=CeleryCommand, name="graph", epilog=EXIT_CODES)
@run_id
@click.option("--svg", "as_svg", is_flag=True, cls=CeleryOption, help="Print an SVG picture instead of Mermaid.")
@as_json_option
@click.pass_context
@reported
def draw_run(context: click.Context, run_id: str, as_svg: bool, as_json: bool) -> None:
    """Draw run ID with the states of its steps: as a Mermaid flowchart, as SVG, or as JSON data to be drawn."""
    if as_svg and as_json:
        raise Stop("--svg and --json exclude each other", ExitCode.CALLER)
    graph = orchestrator_of(context).workflows.get(run_id).graph()
    if as_json:
        print_document(graph)
        return
    if len(graph["steps"]) > _MOST_DRAWN:
        said = f"run {run_id} has {len(graph['steps'])} steps; allowed in a picture: {_MOST_DRAWN}; --json has them all"
        raise Stop(said, ExitCode.CALLER)
    # Here, so that `celery worker` does not load it.
    from orchestrator.workflows.graph import mermaid
    from orchestrator.workflows.svg import svg

    click.echo(svg(graph) if as_svg else mermaid(graph), nl=False)
