"""``celery -A APP calls``: what became of the asks of each mailbox."""

from __future__ import annotations

from typing import Any, Final

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.sending.calls.call_counts import CallCounts

#: What is counted, with the column's title.
_COUNTED: Final = {
    "asked": "asked",
    "open": "open",
    "handled": "handled",
    "dead": "dead",
    "expired": "expired",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "given_up": "given up",
    "retried": "retried",
    "hedged": "hedged",
    "over_budget": "over budget",
    "fell_back": "fell back",
}

#: Columns that a narrow terminal leaves out, the first one first.
_DROPPED: Final = ("given up", "fell back", "cancelled", "expired", "over budget", "hedged", "retried")


@click.command(cls=CeleryCommand, name="calls", epilog=EXIT_CODES)
@as_json_option
@click.pass_context
@reported
def calls(context: click.Context, as_json: bool) -> None:
    """List the asks, retries, hedges and durable fallbacks of each mailbox. A plain call is in `ledger`."""
    found = orchestrator_of(context).call_counts()
    if as_json:
        print_document({"calls": [_document(counts) for counts in found]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    rows = [(counts.queue, *(getattr(counts, name) for name in _COUNTED)) for counts in found]
    columns = ("mailbox", *_COUNTED.values())
    print_table(
        console(context), f"Asked mailboxes: {len(found)}", columns, rows, fold=columns[:1], drop=list(_DROPPED)
    )


def _document(counts: CallCounts) -> dict[str, Any]:
    return {"mailbox": counts.queue, **{name: getattr(counts, name) for name in _COUNTED}}
