"""``celery -A APP ballots``: what was proposed, how it was decided, and how the votes stand."""

from __future__ import annotations

import time
from typing import Any

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, limit_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.coordination.ballots.backend import BallotState
from orchestrator.core.times import age

_LIMIT = 100_000

_COLUMNS = ("ballot", "proposal", "state", "for", "against", "silent", "of", "needed", "proposed", "ends in")

#: Columns that a narrow terminal leaves out, the first one first.
_DROPPED = ("needed", "silent", "proposed", "ends in")


@click.command(cls=CeleryCommand, name="ballots", epilog=EXIT_CODES)
@limit_option(_LIMIT)
@as_json_option
@click.pass_context
@reported
def ballots(context: click.Context, limit: int, as_json: bool) -> None:
    """List ballots, the last proposed first: the votes by weight, the decision, and when an open one times out."""
    found = orchestrator_of(context).coordination.ballots(limit)
    if as_json:
        print_document({"ballots": [_document(state) for state in found]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    rows = [_row(state, time.time()) for state in found]
    print_table(console(context), f"Ballots: {len(found)}", _COLUMNS, rows, fold=_COLUMNS[:2], drop=list(_DROPPED))


def _row(state: BallotState, now_s: float) -> tuple[str, ...]:
    counts = (str(state.approved), str(state.rejected), str(state.silent), str(state.of))
    ends = age(max(0.0, state.ends_s - now_s)) if state.decided_s is None else ""
    proposed = f"{age(max(0.0, now_s - state.proposed_s))} ago"
    return (state.id, state.message, state.state, *counts, state.rule, proposed, ends)


def _document(state: BallotState) -> dict[str, Any]:
    return {
        "id": state.id,
        "message": state.message,
        "state": state.state,
        "approved": state.approved,
        "rejected": state.rejected,
        "silent": state.silent,
        "of": state.of,
        "rule": state.rule,
        "proposed_s": state.proposed_s,
        "ends_s": state.ends_s,
        "decided_s": state.decided_s,
    }
