"""``celery -A APP delivery show | wait | cancel | history``: one delivery, by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.outcomes import attempt_documents, outcome_document, outcome_line
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, exit_codes, reported
from orchestrator.core.deliveries.outcome import Dead, Handled
from orchestrator.core.errors import UnknownDeadLetter, UnknownDelivery
from orchestrator.core.times import age, moment_of
from orchestrator.sending.delivery import MAX_WAIT_S, CancelResult

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

_id = click.argument("delivery_id", metavar="ID")

_NOT_HANDLED = "it ended, but was not handled"

_CANCEL_CODES = exit_codes(ok="it will not run, or not again", failed="too late: it had its outcome")

#: What cancelling came to, in words.
_SAID = {
    CancelResult.CANCELLED: "cancelled: it will not run",
    CancelResult.INTERRUPTING: "a worker runs it; its process is being ended",
    CancelResult.WHEN_IT_ENDS: "a worker has it and cannot interrupt it: if it runs it ends, but is not tried again",
}


@click.group(name="delivery", epilog=EXIT_CODES)
def delivery() -> None:
    """Look at one delivery, wait for its outcome, or cancel it, by its id."""


@delivery.command(cls=CeleryCommand, name="show", epilog=EXIT_CODES)
@_id
@as_json_option
@click.pass_context
@reported
def show_delivery(context: click.Context, delivery_id: str, as_json: bool) -> None:
    """Show where a delivery is, its attempts, and its outcome if it has one."""
    orchestrator = orchestrator_of(context)
    hidden = orchestrator.runtime.hidden.names
    found = orchestrator.delivery(delivery_id)
    status, outcome = found.status(), found.outcome()
    attempts = attempt_documents(found.history(), hidden)
    agent, message, queue = found.agent, found.message, found.queue
    if not message and isinstance(outcome, Dead):
        agent, message, queue = _recipient_in_letter(orchestrator, outcome)
    if as_json:
        print_document(
            {
                "id": found.id,
                "status": status,
                "agent": agent,
                "message": message,
                "queue": queue,
                "tracked": found.tracked,
                "outcome": outcome_document(outcome, hidden),
                "history": attempts,
            }
        )
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_fields

    out = console(context)
    fields: dict[str, str | int] = {
        "status": status,
        "agent": agent,
        "message": message,
        "mailbox": queue,
        "tracked": "" if found.tracked else "no: its outcome will not be recorded",
        "outcome": "" if outcome is None else outcome_line(outcome, hidden),
    }
    print_fields(out, f"Delivery {found.id}", fields)
    _print_attempts(out, attempts)


def _recipient_in_letter(orchestrator: Orchestrator, outcome: Dead) -> tuple[str, str, str]:
    """Agent, message and mailbox by a dead delivery's letter; its outcome has none. Empty without a letter."""
    try:
        letter = orchestrator.dead_letters.get(outcome.letter_id or "")
    except UnknownDeadLetter:
        return "", "", ""
    return letter.agent, letter.message or letter.task, letter.queue


@delivery.command(cls=CeleryCommand, name="history", epilog=EXIT_CODES)
@_id
@as_json_option
@click.pass_context
@reported
def show_history(context: click.Context, delivery_id: str, as_json: bool) -> None:
    """Show a delivery's attempts so far: when and where each ended, and how."""
    orchestrator = orchestrator_of(context)
    attempts = attempt_documents(orchestrator.delivery(delivery_id).history(), orchestrator.runtime.hidden.names)
    if as_json:
        print_document({"id": delivery_id, "history": attempts})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console

    _print_attempts(console(context), attempts)


def _print_attempts(out: Any, attempts: list[dict[str, Any]]) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import print_table

    rows = [(a["number"], moment_of(a["ended_at"]), a["worker"], _runtime(a["runtime_s"]), a["how"]) for a in attempts]
    columns = ("attempt", "ended", "worker", "ran for", "how it ended")
    print_table(out, "Attempts", columns, rows, fold=("how it ended",), drop=("ran for", "worker"))


def _runtime(runtime_s: float | None) -> str:
    return "" if runtime_s is None else age(runtime_s)


@delivery.command(
    cls=CeleryCommand, name="wait", epilog=exit_codes(ExitCode.PENDING, ok="it was handled", failed=_NOT_HANDLED)
)
@_id
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(0.01, MAX_WAIT_S),
    default=10.0,
    show_default=True,
    metavar=METAVAR,
    cls=CeleryOption,
    help="Wait at most this long.",
)
@as_json_option
@click.pass_context
@reported
def wait_for_delivery(context: click.Context, delivery_id: str, timeout_s: float, as_json: bool) -> None:
    """Wait for a delivery's outcome and print it."""
    orchestrator = orchestrator_of(context)
    outcome = orchestrator.delivery(delivery_id).wait(timeout_s)
    if as_json:
        print_document({"id": delivery_id, "outcome": outcome_document(outcome, orchestrator.runtime.hidden.names)})
    else:
        click.echo(outcome_line(outcome, orchestrator.runtime.hidden.names))
    if not isinstance(outcome, Handled):
        raise Stop(f"delivery {delivery_id} was not handled", ExitCode.NOT_HANDLED)


@delivery.command(cls=CeleryCommand, name="cancel", epilog=_CANCEL_CODES)
@_id
@as_json_option
@click.pass_context
@reported
def cancel_delivery(context: click.Context, delivery_id: str, as_json: bool) -> None:
    """Have a delivery not run: at once while it waits, else as far as its worker's pool can."""
    came_to = orchestrator_of(context).delivery(delivery_id).cancel()
    if came_to is CancelResult.UNKNOWN:
        raise UnknownDelivery(delivery_id)
    if as_json:
        print_document({"id": delivery_id, "cancelling": came_to})
    elif came_to in _SAID:
        click.echo(_SAID[came_to])
    if came_to is CancelResult.TOO_LATE:
        raise Stop(f"delivery {delivery_id} has its outcome already", ExitCode.NOT_HANDLED)
