"""``celery -A APP barriers``: who has arrived, and who is missing; and the reset of a broken one."""

from __future__ import annotations

import time
from typing import Any

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, limit_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, reported
from orchestrator.coordination.barriers.backend import BarrierState
from orchestrator.core.times import age

_LIMIT = 100_000

#: Names that one row lists.
_MOST_NAMES = 10


@click.group(name="barriers", epilog=EXIT_CODES, invoke_without_command=True)
@limit_option(_LIMIT)
@as_json_option
@click.pass_context
@reported
def barriers(context: click.Context, limit: int, as_json: bool) -> None:
    """List barriers: how many parties have arrived, who is missing, and when or why each breaks."""
    if context.invoked_subcommand is not None:
        return
    found = orchestrator_of(context).coordination.barriers(limit)
    if as_json:
        print_document({"barriers": [_document(state) for state in found]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    rows = [
        (state.name, _condition(state), f"{state.arrived} of {state.parties}", _missing(state), str(state.generation))
        for state in found
    ]
    columns = ("barrier", "state", "arrived", "missing", "generation")
    print_table(
        console(context), f"Barriers: {len(found)}", columns, rows, fold=columns[:1], drop=["generation", "missing"]
    )


@barriers.command(cls=CeleryCommand, name="reset", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
@reported
def reset(context: click.Context, name: str) -> None:
    """Let the next generation of barrier NAME begin; one that is in progress breaks. Its parties stay the same."""
    # Whoever resets it need not name its parties.
    barrier = orchestrator_of(context).barrier(name, 1)
    state = barrier.state()
    if state is None:
        raise Stop(f"barrier {name!r} is not known: nobody has used it for a week", ExitCode.CALLER)
    was_reset = barrier.reset(state.generation)
    click.echo(one_line(f"{name}: {f'generation {state.generation} reset' if was_reset else 'nothing to reset'}"))


def _condition(state: BarrierState) -> str:
    if state.broken:
        return f"broken: {state.broken}"
    if state.due_s is None:
        return "idle"
    return f"breaks in {age(max(0.0, state.due_s - time.time()))}"


def _missing(state: BarrierState) -> str:
    if state.due_s is None:
        return ""
    names = state.missing_names
    more = ", …" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more if names else str(state.missing)


def _document(state: BarrierState) -> dict[str, Any]:
    return {
        "name": state.name,
        "generation": state.generation,
        "parties": state.parties,
        "names": list(state.names),
        "on_death": state.on_death.value,
        "broken": state.broken or None,
        "due_s": state.due_s,
        "arrived": state.arrived,
        "missing": state.missing,
        "missing_names": list(state.missing_names) if state.due_s is not None else [],
        "present": [
            {"party": one.party, "since_s": one.since_ms / 1000, "waits_in": one.owner or None} for one in state.present
        ],
        "gone": [{"party": party, "reason": reason} for party, reason in state.gone],
    }
