"""``celery -A APP ledger``: every accepted message, and where it is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.core.times import moment
from orchestrator.sending.ledger import LedgerRow, total
from orchestrator.transport.redis.dataset import Loss

_CONSERVED = ("accepted", "handled", "dead", "expired", "cancelled", "pending", "lost")
_FIRES = ("due", "fired", "coalesced", "missed", "skipped")
_FURTHER = ("ready", "held", "delayed", "on_hold", "retried", "redelivered", "restarted", "duplicated")


@click.command(
    cls=CeleryCommand,
    name="ledger",
    epilog=exit_codes(ok="it balances", failed="the ledger of a mailbox does not balance, or Redis has lost data"),
)
@as_json_option
@click.option("--acknowledge-loss", is_flag=True, help="Acknowledge the data loss: exit code 0 again.")
@click.pass_context
@reported
def ledger(context: click.Context, as_json: bool, acknowledge_loss: bool) -> None:
    """Show each mailbox' ledger, all taken at one moment, and since when it counts.

    accepted = handled + dead + expired + cancelled + pending, and of the fires of schedules due = fired + coalesced +
    missed + skipped, or the exit code is 1. What is pending is ready in
    its mailbox, held by a worker, or delayed: not yet due. The exit code is 1, too, if Redis is known to have lost data
    and nobody has acknowledged that: such a ledger balances, for it knows nothing of what was lost.
    """
    orchestrator = orchestrator_of(context)
    if acknowledge_loss and not orchestrator.eager:
        orchestrator.runtime.store.acknowledge_losses()
    rows, housekeeping, record = orchestrator.ledger(), orchestrator.housekeeping_ledger(), orchestrator.dataset()
    losses = record.losses if record is not None else ()
    fires = dict(orchestrator.schedules.ledger())
    lost_fires = _lost_fires(fires)
    unbalanced = [row for row in (*rows, housekeeping) if not row.balanced]
    if as_json:
        print_document(
            {
                "mailboxes": [_document(row) for row in rows],
                "total": _document(total(rows)),
                "housekeeping": _document(housekeeping),
                "fires": {**dict.fromkeys(_FIRES, 0), **fires},
                "balanced": not unbalanced and not lost_fires,
                "dataset": None if record is None else asdict(record.dataset),
                "losses": [asdict(loss) for loss in losses],
            }
        )
    else:
        _show(context, rows, housekeeping)
        _show_fires(fires)
        if record is not None:
            click.echo(f"counted since {moment(record.dataset.born_ms)} (data set {record.dataset.id})")
    if unbalanced:
        lost = ", ".join(f"{row.queue} {row.lost:+d}" for row in unbalanced)
        raise Stop(f"the ledger does not balance; lost: {lost}", ExitCode.NOT_HANDLED)
    if lost_fires:
        raise Stop(f"the ledger of fires does not balance; lost: {lost_fires:+d}", ExitCode.NOT_HANDLED)
    if losses:
        said = "; ".join(map(_said, losses))
        raise Stop(f"Redis has lost data: {said}. If you know of it: ledger --acknowledge-loss", ExitCode.NOT_HANDLED)


def _lost_fires(fires: Mapping[str, int]) -> int:
    """The number of due times of schedules that became nothing."""
    return fires.get("due", 0) - sum(fires.get(name, 0) for name in _FIRES[1:])


def _show_fires(fires: Mapping[str, int]) -> None:
    if not fires:
        return
    why = [f"{name} {count}" for name, count in sorted(fires.items()) if ": " in name]
    sums = ", ".join(f"{fires.get(name, 0)} {name}" for name in _FIRES)
    click.echo(f"Fires of schedules: {sums}" + (f" ({', '.join(why)})" if why else ""))


def _said(loss: Loss) -> str:
    if loss.kind == "replaced":
        began = moment(loss.born_ms)
        return f"all that was accepted from {began} on and had no outcome (noticed {moment(loss.noticed_ms)})"
    return f"the last {loss.lost_ms / 1000:.1f} s before it came back (noticed {moment(loss.noticed_ms)})"


def _document(row: LedgerRow) -> dict[str, Any]:
    return {**asdict(row), "pending": row.pending, "lost": row.lost, "balanced": row.balanced}


def _show(context: click.Context, rows: list[LedgerRow], housekeeping: LedgerRow) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    out = console(context)
    shown = [*rows, total(rows)] if rows else []
    for title, names in (("Ledger", _CONSERVED), ("What is pending, and what happened more than once", _FURTHER)):
        print_table(
            out, title, ("mailbox", *names), [(row.queue, *(getattr(row, name) for name in names)) for row in shown]
        )
    if housekeeping.accepted:
        click.echo(
            f"Not in the total: {housekeeping.queue}, this library's own housekeeping: "
            f"{housekeeping.accepted} accepted, {housekeeping.handled} handled, {housekeeping.expired} superseded, "
            f"{housekeeping.pending} pending"
        )
