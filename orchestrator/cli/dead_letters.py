"""``celery -A APP dead-letters``: look at what could not be handled, send it again, or remove it."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.errors import EXIT_CODES, ExitCode, Stop, reported
from orchestrator.cli.letters import letter_document, raw_message
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.printable import age, moment, one_line
from orchestrator.deadletters.letter import DeadLetter

#: Of a reason, a list shows so many characters; `show` has it all.
_LONGEST_WHY = 100


@click.group(name="dead-letters", epilog=EXIT_CODES)
def dead_letters() -> None:
    """Look at dead letters, send them again, or remove them."""


@dead_letters.command(cls=CeleryCommand, name="list", epilog=EXIT_CODES)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    cls=CeleryOption,
    help="How many are shown.",
)
@click.option("--before", metavar="ID", cls=CeleryOption, help="Show those older than this one.")
@as_json_option
@click.pass_context
@reported
def list_letters(context: click.Context, limit: int, before: str | None, as_json: bool) -> None:
    """List dead letters, newest first."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    letters, count = log.list(limit, before=before), log.count()
    last = letters[-1].id if len(letters) == limit else None
    hidden = orchestrator.settings.redact
    if as_json:
        documents = [letter_document(letter, hidden) for letter in letters]
        print_document({"count": count, "letters": documents, "before": last})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_table

    print_table(
        console(context),
        f"Dead letters: {len(letters)} of {count}",
        ("id", "age", "recipient", "message", "attempts", "why"),
        [_row(letter_document(letter, hidden)) for letter in letters],
        fold=("why",),
    )
    if last is not None:
        click.echo(f"Older ones: --before {last}", err=True)


def _row(letter: dict[str, Any]) -> tuple[str | int, ...]:
    why = letter["reason"]
    if letter["error"]["type"]:
        why += f": {letter['error']['type']}: {letter['error']['message']}"
    return (
        letter["id"],
        age(max(0.0, time.time() - letter["at_ms"] / 1000)),
        letter["agent"] or letter["queue"],
        letter["message"] or letter["task"],
        letter["attempts"],
        why if len(why) <= _LONGEST_WHY else why[: _LONGEST_WHY - 3] + "...",
    )


@dead_letters.command(cls=CeleryCommand, name="show", epilog=EXIT_CODES)
@click.argument("letter_id", metavar="ID")
@as_json_option
@click.pass_context
@reported
def show_letter(context: click.Context, letter_id: str, as_json: bool) -> None:
    """Show one dead letter: each failed attempt, the workers it killed, the traceback, and the message."""
    orchestrator = orchestrator_of(context)
    letter = orchestrator.dead_letters.get(letter_id)
    hidden = orchestrator.settings.redact
    document, raw = letter_document(letter, hidden), raw_message(letter, hidden)
    if as_json:
        print_document({**document, "raw": raw})
        return
    _show(context, letter, document, raw)


def _show(context: click.Context, letter: DeadLetter, document: dict[str, Any], raw: Any) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_fields, print_table, print_text

    out = console(context)
    names = ("agent", "message", "task", "queue", "delivery_id", "reason", "attempts", "by", "replay_of")
    fields: dict[str, str | int] = {name.replace("_", " "): document[name] for name in names}
    fields["when"] = moment(letter.at_ms)
    if document["error"]["type"]:
        fields["error"] = f"{document['error']['type']}: {document['error']['message']}"
    if document["metadata"]:
        fields["metadata"] = json.dumps(document["metadata"])
    print_fields(out, f"Dead letter {letter.id}", fields)
    failures = document["failures"]
    print_table(
        out,
        "Failed attempts",
        ("attempt", "when", "worker", "error"),
        [(f["attempt"], f["at"], f["by"], f"{f['type']}: {f['message']}") for f in failures],
        fold=("error",),
    )
    if document["deaths"]:
        print_table(
            out,
            "Deaths of workers that were running it",
            ("worker", "reason", "when"),
            [(str(d.get("by", "")), str(d.get("reason", "")), _when(d.get("at"))) for d in document["deaths"]],
        )
    if failures and failures[-1]["traceback"]:
        print_text(out, f"Traceback of attempt {failures[-1]['attempt']}", failures[-1]["traceback"].rstrip())
    print_text(out, f"Message ({len(letter.raw)} bytes)", raw if isinstance(raw, str) else json.dumps(raw, indent=2))


def _when(at_ms: Any) -> str:
    return moment(at_ms) if isinstance(at_ms, int) else ""


@dead_letters.command(cls=CeleryCommand, name="retry", epilog=EXIT_CODES)
@click.argument("letter_id", metavar="ID")
@as_json_option
@click.pass_context
@reported
def retry_letter(context: click.Context, letter_id: str, as_json: bool) -> None:
    """Send a dead letter again, as a first attempt. It leaves the log in the same step."""
    queue = orchestrator_of(context).dead_letters.retry(letter_id)
    if as_json:
        print_document({"id": letter_id, "queue": queue})
    else:
        click.echo(f"{letter_id} sent again to {one_line(queue)}")


@dead_letters.command(cls=CeleryCommand, name="purge", epilog=EXIT_CODES)
@click.option("--yes", is_flag=True, cls=CeleryOption, help="Do not ask.")
@as_json_option
@click.pass_context
@reported
def purge_letters(context: click.Context, yes: bool, as_json: bool) -> None:
    """Remove all dead letters. Asks first; what is removed is gone."""
    log = orchestrator_of(context).dead_letters
    count = log.count()
    if count and not yes:
        if not can_ask():
            raise Stop(f"{count} dead letters would be removed; say --yes, as nobody can be asked", ExitCode.CALLER)
        if not click.confirm(f"Remove {count} dead letters?", err=True):
            raise Stop("nothing was removed", ExitCode.NOT_HANDLED)
    removed = log.purge() if count else 0
    if as_json:
        print_document({"removed": removed})
    else:
        click.echo(f"{removed} dead letters removed")


def can_ask() -> bool:
    """Whether somebody sits at the other end."""
    return sys.stdin.isatty()
