"""``celery -A APP dead-letters show``."""

from __future__ import annotations

import json
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.dead_letters.letters import letter_document, raw_message
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.deliveries.frames import own_frames
from orchestrator.core.plural import counted
from orchestrator.core.times import moment, moment_of
from orchestrator.deadletters.letter import DeadLetter

#: Fields that are printed first, and last.
_FIRST = ("state", "agent", "message", "task", "reason")
_LAST = ("delivery_id", "queue", "group", "by", "incarnation", "replay_of")


@click.command(cls=CeleryCommand, name="show", epilog=EXIT_CODES)
@click.argument("letter_id", metavar="ID")
@click.option(
    "--raw", "wire", is_flag=True, cls=CeleryOption, help="Show also the whole message, as it was in its mailbox."
)
@as_json_option
@click.pass_context
@reported
def show_letter(context: click.Context, letter_id: str, wire: bool, as_json: bool) -> None:
    """Show one dead letter: its payload, where your code failed, each failed attempt, and deaths of its workers."""
    orchestrator = orchestrator_of(context)
    letter = orchestrator.dead_letters.get(letter_id)
    hidden = orchestrator.settings.redact
    document, raw = letter_document(letter, hidden), raw_message(letter, hidden)
    if as_json:
        print_document({**document, "raw": raw})
        return
    _show(context, letter, document, raw, wire=wire)


def _show(context: click.Context, letter: DeadLetter, document: dict[str, Any], raw: Any, *, wire: bool) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_fields, print_table, print_text

    out = console(context)
    failures, error = document["failures"], document["error"]
    fields: dict[str, str | int] = {name: document[name] for name in _FIRST}
    fields["error"] = f"{error['type']}: {error['message']}" if error["type"] else ""
    fields["attempts"] = document["attempts"]
    fields["when"] = moment(letter.at_ms)
    if letter.note:
        fields["note"] = f"{document['note'].get('note')} ({document['note'].get('who')})"
    print_fields(out, f"Dead letter {letter.id}", fields)
    print_text(out, "Payload", _payload(letter, document["body"], raw))
    traceback = failures[-1]["traceback"].rstrip() if failures else ""
    if traceback:
        print_text(out, f"Your frames of attempt {failures[-1]['attempt']}", own_frames(traceback))
    print_table(
        out,
        "Failed attempts",
        ("attempt", "when", "worker", "error"),
        [(f["attempt"], moment_of(f["at"]), f["by"], f"{f['type']}: {f['message']}") for f in failures],
        fold=("error",),
        drop=("worker",),
    )
    if document["deaths"]:
        print_table(
            out,
            "Deaths of workers that were running it",
            ("worker", "reason", "when"),
            [(str(d.get("by", "")), str(d.get("reason", "")), _when(d.get("at"))) for d in document["deaths"]],
        )
    more: dict[str, str | int] = {name.replace("_", " "): document[name] for name in _LAST}
    more["sent"] = moment(letter.sent_ms) if letter.sent_ms else ""
    more["first failure"] = moment_of(document["first_seen"])
    if letter.lineage.replays:
        line = letter.lineage
        more["line"] = f"began with {line.first}, replayed {counted(line.replays, 'time')} ({line.auto} automatically)"
    more["metadata"] = json.dumps(document["metadata"]) if document["metadata"] else ""
    print_fields(out, "More", more)
    if traceback and own_frames(traceback) != traceback:
        print_text(out, f"Traceback of attempt {failures[-1]['attempt']}", traceback)
    if wire:
        print_text(out, f"Message ({counted(len(letter.raw), 'byte')})", _text(raw))


def _text(data: Any) -> str:
    return data if isinstance(data, str) else json.dumps(data, indent=2)


def _payload(letter: DeadLetter, body: Any, raw: Any) -> str:
    """A message's fields, or a task's arguments; the whole message if neither can be read."""
    match body:
        case None:
            return _text(raw)
        case [[fields], {}] if letter.agent:
            return json.dumps(fields, indent=2)
        case [args, kwargs]:
            return json.dumps({"args": args, "kwargs": kwargs}, indent=2)
        case _:
            return json.dumps(body, indent=2)


def _when(at_ms: Any) -> str:
    return moment(at_ms) if isinstance(at_ms, int) else ""
