"""``celery -A APP dead-letters``: look at what could not be handled. What acts on it is in ``dead_letters_acts.py``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from itertools import islice
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.dead_letters_acts import ACTS
from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.letter_filter import filter_options, selection
from orchestrator.cli.letters import letter_document, raw_message
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.frames import own_frames
from orchestrator.core.masking import mask
from orchestrator.core.plural import counted
from orchestrator.core.redact import redact
from orchestrator.core.times import age, moment, moment_of
from orchestrator.deadletters.criteria import STATES
from orchestrator.deadletters.groups import Group
from orchestrator.deadletters.letter import DIMENSIONS, DeadLetter

#: Of a reason, a list shows so many characters; `show` has it all.
_LONGEST_WHY = 100

#: What `show` shows of a letter, first and last.
_FIRST = ("state", "agent", "message", "task", "reason")
_LAST = ("delivery_id", "queue", "group", "by", "incarnation", "replay_of")


@click.group(name="dead-letters", epilog=EXIT_CODES)
def dead_letters() -> None:
    """Look at dead letters, send them again, put them aside, or remove them."""


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
@filter_options
@as_json_option
@click.pass_context
@reported
def list_letters(context: click.Context, /, limit: int, before: str | None, as_json: bool, **options: Any) -> None:
    """List dead letters, newest first; all filters that are given must hold."""
    orchestrator = orchestrator_of(context)
    chosen = selection(orchestrator, options)
    page, count = chosen.page(limit, before=before), chosen.count()
    hidden = orchestrator.settings.redact
    documents = [letter_document(letter, hidden) for letter in page.letters]
    if as_json:
        print_document({"count": count, "letters": documents, "before": page.before})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_table

    print_table(
        console(context),
        f"Dead letters: {len(documents)} of {count}",
        ("id", "age", "recipient", "message", "attempts", "why"),
        [_row(document) for document in documents],
        fold=("why",),
        drop=("attempts", "message"),
    )
    if page.before is not None:
        click.echo(f"Older ones: --before {page.before}", err=True)


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
@click.option("--raw", "wire", is_flag=True, cls=CeleryOption, help="Show the message as it lay in its mailbox, too.")
@as_json_option
@click.pass_context
@reported
def show_letter(context: click.Context, letter_id: str, wire: bool, as_json: bool) -> None:
    """Show one dead letter: what was sent, where in your code it failed, each failed attempt, the workers it killed."""
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
    from orchestrator.cli.tables import console, print_fields, print_table, print_text

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
    """What was sent: a message's fields, or a task's arguments; the whole message where neither can be read."""
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


@dead_letters.command(cls=CeleryCommand, name="groups", epilog=EXIT_CODES)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, cls=CeleryOption)
@filter_options
@as_json_option
@click.pass_context
@reported
def show_groups(context: click.Context, /, limit: int, as_json: bool, **options: Any) -> None:
    """Show letters that died of the same together: same error, same stack. The newest groups come first."""
    orchestrator = orchestrator_of(context)
    hidden = orchestrator.settings.redact
    groups = selection(orchestrator, options).groups(limit)
    if as_json:
        print_document({"groups": [_group_document(group, hidden) for group in groups]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_table

    rows = []
    for group in groups:
        letter = letter_document(group.example, hidden)
        error = letter["error"]
        rows.append(
            (
                group.fingerprint,
                group.count,
                moment(group.first_ms),
                moment(group.last_ms),
                group.sparkline,
                letter["agent"] or letter["queue"],
                f"{letter['reason']}: {error['type']}: {error['message']}"[:_LONGEST_WHY],
            )
        )
    columns = ("group", "letters", "first seen", "last seen", "last 24 h", "recipient", "newest")
    print_table(
        console(context),
        f"Groups of dead letters: {len(rows)}",
        columns,
        rows,
        fold=("newest",),
        drop=("last 24 h", "first seen", "recipient"),
    )


def _group_document(group: Group, hidden: tuple[str, ...]) -> dict[str, Any]:
    return {
        "group": group.fingerprint,
        "count": group.count,
        "first_ms": group.first_ms,
        "last_ms": group.last_ms,
        "arrivals_24h": list(group.arrivals),
        "example": letter_document(group.example, hidden),
    }


@dead_letters.command(cls=CeleryCommand, name="audit", epilog=EXIT_CODES)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, cls=CeleryOption)
@as_json_option
@click.pass_context
@reported
def show_audit(context: click.Context, limit: int, as_json: bool) -> None:
    """Show the audit log: what was done with dead letters, by whom, when and why; newest first."""
    orchestrator = orchestrator_of(context)
    hidden = orchestrator.settings.redact
    entries = mask(redact([asdict(entry) for entry in orchestrator.dead_letters.audit(limit)], hidden), hidden)
    if as_json:
        print_document({"audit": entries})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_table

    rows = [
        (
            moment(a["at_ms"]),
            a["kind"],
            a["who"],
            a["why"],
            _known(a["done"]),
            _known(a["dead"]),
            json.dumps(a["detail"]),
        )
        for a in entries
    ]
    columns = ("when", "action", "who", "why", "letters", "dead again", "about")
    print_table(
        console(context), f"Audit log: {len(rows)}", columns, rows, fold=("about", "why"), drop=("about", "dead again")
    )


def _known(count: int | None) -> str | int:
    return "unknown" if count is None else count


@dead_letters.command(cls=CeleryCommand, name="stats", epilog=EXIT_CODES)
@as_json_option
@click.pass_context
@reported
def show_stats(context: click.Context, as_json: bool) -> None:
    """Count dead letters, by agent, message, error and reason."""
    log = orchestrator_of(context).dead_letters
    counts = {state: log.query(state=state).count() for state in STATES}
    by = {
        dimension: {
            value: log.store.size_of([(dimension, value)]) for value in islice(log.store.values(dimension), 100)
        }
        for dimension in DIMENSIONS
        if dimension != "group"
    }
    if as_json:
        print_document({"counts": counts, "by": by})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_fields, print_table

    out = console(context)
    print_fields(out, "Dead letters", dict(counts.items()))
    for dimension, values in by.items():
        rows = sorted(values.items(), key=lambda item: -item[1])
        print_table(out, f"By {dimension}", (dimension, "letters"), rows)


for _act in ACTS:
    dead_letters.add_command(_act)
# As it was called before.
dead_letters.add_command(ACTS[0], name="retry")
