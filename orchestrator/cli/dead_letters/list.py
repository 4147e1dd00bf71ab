"""``celery -A APP dead-letters list | groups | audit | stats``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.dead_letters.letter_filter import filter_options, selection
from orchestrator.cli.dead_letters.letters import letter_document
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, limit_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import redact
from orchestrator.core.times import age, moment
from orchestrator.deadletters.criteria import STATES
from orchestrator.deadletters.groups import Group
from orchestrator.deadletters.letter import DIMENSIONS

#: Characters of a reason, or of what an audit entry is about, in a table; `show` and `--json` print all of it.
_MAX_WHY = 100


@click.command(cls=CeleryCommand, name="list", epilog=EXIT_CODES)
@limit_option(10_000)
@click.option("--before", metavar="ID", cls=CeleryOption, help="Show letters older than this one.")
@filter_options
@as_json_option
@click.pass_context
@reported
def list_letters(context: click.Context, /, limit: int, before: str | None, as_json: bool, **options: Any) -> None:
    """List dead letters that match all given filters, newest first."""
    orchestrator = orchestrator_of(context)
    chosen = selection(orchestrator, options)
    page, count = chosen.page(limit, before=before), chosen.count()
    hidden = orchestrator.settings.redact
    documents = [letter_document(letter, hidden) for letter in page.letters]
    if as_json:
        print_document({"count": count, "letters": documents, "before": page.before})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        f"Dead letters: {len(documents)} of {count}",
        ("id", "age", "recipient", "message", "attempts", "why"),
        [_row(document) for document in documents],
        fold=("why",),
        drop=("attempts", "message"),
    )
    if page.before is not None:
        click.echo(f"Older letters: --before {page.before}", err=True)


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
        _cut(why),
    )


@click.command(cls=CeleryCommand, name="groups", epilog=EXIT_CODES)
@limit_option(1000)
@filter_options
@as_json_option
@click.pass_context
@reported
def show_groups(context: click.Context, /, limit: int, as_json: bool, **options: Any) -> None:
    """Group letters by failure, that is by error and stack; the most recent groups first."""
    orchestrator = orchestrator_of(context)
    hidden = orchestrator.settings.redact
    groups = selection(orchestrator, options).groups(limit)
    if as_json:
        print_document({"groups": [_group_document(group, hidden) for group in groups]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

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
                f"{letter['reason']}: {error['type']}: {error['message']}"[:_MAX_WHY],
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


@click.command(cls=CeleryCommand, name="audit", epilog=EXIT_CODES)
@limit_option(10_000)
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
    from orchestrator.cli.output.tables import console, print_table

    rows = [
        (
            moment(entry["at_ms"]),
            entry["kind"],
            entry["who"],
            _cut(entry["why"]),
            _cut(_summary(entry["detail"])),
            _known(entry["done"]),
            _known(entry["dead"]),
        )
        for entry in entries
    ]
    print_table(
        console(context),
        f"Audit log: {len(rows)}",
        ("when", "action", "who", "why", "about", "letters", "dead again"),
        rows,
        fold=("who", "why", "about"),
        drop=("dead again", "about"),
    )


def _summary(detail: Mapping[str, Any]) -> str:
    """The subject of an audit entry, as NAME=VALUE; the criteria of a filter one by one."""
    named = {**detail, **(detail.get("filter") or {})}
    named.pop("filter", None)
    return " ".join(f"{name}={_text(value)}" for name, value in named.items() if value not in (None, "", False))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_WHY else text[: _MAX_WHY - 3] + "..."


def _known(count: int | None) -> str | int:
    return "unknown" if count is None else count


@click.command(cls=CeleryCommand, name="stats", epilog=EXIT_CODES)
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
    from orchestrator.cli.output.tables import console, print_fields, print_table

    out = console(context)
    print_fields(out, "Dead letters", dict(counts.items()))
    for dimension, values in by.items():
        rows = sorted(values.items(), key=lambda item: -item[1])
        print_table(out, f"By {dimension}", (dimension, "letters"), rows)
