"""``celery -A APP schedules list | show | preview | history | explain | lint | export``."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, limit_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, exit_codes, reported
from orchestrator.cli.schedules.schedule_documents import (
    Moment,
    entry_document,
    note_of,
    recipient_text,
    schedule_document,
    schedule_id,
    state_cell,
    trigger_text,
    why_not_exactly_once,
)
from orchestrator.core.schedules.lint import lint
from orchestrator.core.times import moment

if TYPE_CHECKING:
    from orchestrator.schedules.info import ScheduleInfo

#: Entries of the history in which `explain` looks.
_EXPLAINED_FROM = 10_000

_STATES = ("active", "paused", "ended", "broken", "refused")


@click.command(cls=CeleryCommand, name="list", epilog=EXIT_CODES)
@click.option("--state", type=click.Choice(_STATES), cls=CeleryOption, help="List schedules in this state.")
@click.option(
    "--source",
    type=click.Choice(["static", "dynamic", "owned"]),
    cls=CeleryOption,
    help="List schedules that are declared in code, were added at run time, or end with their owner.",
)
@limit_option(1_000_000)
@as_json_option
@click.pass_context
@reported
def list_schedules(context: click.Context, state: str | None, source: str | None, limit: int, as_json: bool) -> None:
    """List schedules, those that are due next first."""
    orchestrator = orchestrator_of(context)
    found = [
        info
        for info in orchestrator.schedules.infos()
        if state in (None, str(state_cell(info))) and source in (None, str(info.source))
    ]
    found.sort(key=lambda info: (info.state.next_ms is None, info.state.next_ms or 0, info.id))
    if as_json:
        shown = [schedule_document(info, orchestrator) for info in found[:limit]]
        print_document({"schedules": shown, "count": len(found)})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    out = console(context)
    print_table(
        out,
        f"Schedules: {len(found)}" + (f", the first {limit} of them" if len(found) > limit else ""),
        ("name", "state", "when", "to", "next", "fired", "coalesced", "missed", "skipped", "source"),
        [
            (
                info.id,
                state_cell(info),
                "" if info.definition is None else trigger_text(info.definition),
                "" if info.definition is None else recipient_text(info.definition),
                "" if info.state.next_ms is None else moment(info.state.next_ms),
                info.counts.fired,
                info.counts.coalesced,
                info.counts.missed,
                info.counts.skipped,
                info.source,
            )
            for info in found[:limit]
        ],
        fold=("name", "when"),
        drop=("source", "skipped", "coalesced", "to", "missed", "fired"),
    )
    for info in found[:limit]:
        if info.broken:
            click.echo(one_line(f"{info.id}: {info.broken}"))
            continue
        if why := why_not_exactly_once(orchestrator, info):
            click.echo(one_line(f"{info.id}: not exactly once: {why}"))
        if note := note_of(orchestrator, info):
            click.echo(one_line(f"{info.id}: {note}"))


@click.command(cls=CeleryCommand, name="show", epilog=EXIT_CODES)
@schedule_id
@as_json_option
@click.pass_context
@reported
def show_schedule(context: click.Context, schedule_id: str, as_json: bool) -> None:
    """Show schedule NAME: what it sends and when, its policies, its state and its counts."""
    orchestrator = orchestrator_of(context)
    info = orchestrator.schedules.get_info(schedule_id)
    document = schedule_document(info, orchestrator)
    if as_json:
        print_document(document)
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_fields

    counts = info.counts
    print_fields(
        console(context),
        f"Schedule {info.id}",
        {
            "state": state_cell(info),
            "because": info.broken or info.state.paused or info.ended or info.state.refused,
            "when": document["trigger"],
            "to": document["recipient"],
            "exactly once": f"no: {document['not_exactly_once']}" if document["not_exactly_once"] else "yes",
            "note": document["note"],
            "next": "" if info.state.next_ms is None else moment(info.state.next_ms),
            "last": "" if info.state.last_ms is None else moment(info.state.last_ms),
            "running": info.state.running,
            "source": info.source,
            "owner": info.owner,
            "revision": str(info.state.rev),
            "ledger": f"due {counts.due} = fired {counts.fired} + coalesced {counts.coalesced} + "
            f"missed {counts.missed} + skipped {counts.skipped}",
            "definition": json.dumps(document["definition"]),
        },
    )


@click.command(cls=CeleryCommand, name="preview", epilog=EXIT_CODES)
@schedule_id
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, cls=CeleryOption, help="How many.")
@as_json_option
@click.pass_context
@reported
def preview_schedule(context: click.Context, schedule_id: str, count: int, as_json: bool) -> None:
    """Show the next times of schedule NAME, by the clock of its zone."""
    found = orchestrator_of(context).schedules[schedule_id].preview(count)
    if as_json:
        print_document({"id": schedule_id, "times": [at.isoformat() for at in found]})
        return
    for at in found:
        click.echo(at.isoformat(" "))


@click.command(cls=CeleryCommand, name="history", epilog=EXIT_CODES)
@click.argument("schedule_id", metavar="[NAME]", required=False)
@limit_option(100_000)
@as_json_option
@click.pass_context
@reported
def show_history(context: click.Context, schedule_id: str | None, limit: int, as_json: bool) -> None:
    """Show what became of the last times of schedule NAME, or of all schedules, the newest first."""
    schedules = orchestrator_of(context).schedules
    if schedule_id is not None:
        schedules.get_info(schedule_id)
    found = schedules.history(limit) if schedule_id is None else schedules[schedule_id].history(limit)
    if as_json:
        print_document({"entries": [entry_document(entry) for entry in found]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        f"History: {len(found)}" + (" (there may be more)" if len(found) == limit else ""),
        ("schedule", "time", "to", "count", "became", "reason", "delivery", "decided"),
        [
            (
                entry.schedule,
                moment(entry.first_ms),
                moment(entry.last_ms) if entry.last_ms != entry.first_ms else "",
                entry.count,
                entry.fate,
                entry.reason,
                entry.delivery,
                moment(entry.at_ms),
            )
            for entry in found
        ],
        fold=("schedule", "reason"),
        drop=("decided", "delivery", "to"),
    )


@click.command(cls=CeleryCommand, name="explain", epilog=EXIT_CODES)
@schedule_id
@click.option(
    "--at",
    type=Moment(),
    metavar="MOMENT",
    cls=CeleryOption,
    help="As 2026-10-25T02:30, by the clock of the schedule's zone unless it has one; the next time unless given.",
)
@as_json_option
@click.pass_context
@reported
def explain_schedule(context: click.Context, schedule_id: str, at: datetime | None, as_json: bool) -> None:
    """Say what became of the time of schedule NAME at a moment, or what will, and why."""
    lines = orchestrator_of(context).schedules[schedule_id].explain(at, history=_EXPLAINED_FROM)
    if as_json:
        print_document({"id": schedule_id, "at": None if at is None else at.isoformat(), "lines": lines})
        return
    for line in lines:
        click.echo(one_line(line))


@click.command(cls=CeleryCommand, name="lint", epilog=exit_codes(failed="there are findings"))
@click.argument("schedule_id", metavar="[NAME]", required=False)
@as_json_option
@click.pass_context
@reported
def lint_schedules(context: click.Context, schedule_id: str | None, as_json: bool) -> None:
    """Find times that the next changes of clocks skip or repeat, days that must match twice, and broken schedules."""
    schedules = orchestrator_of(context).schedules
    infos = schedules.infos() if schedule_id is None else [schedules.get_info(schedule_id)]
    now_ms = schedules.now_ms()
    findings = [finding for info in infos for finding in _findings(info, now_ms)]
    findings.sort()
    if as_json:
        print_document({"findings": [{"schedule": s, "code": code, "text": text} for s, code, text in findings]})
    else:
        for schedule, code, text in findings:
            click.echo(one_line(f"{schedule}: {code}: {text}"))
        click.echo(f"Findings: {len(findings)}")
    if findings:
        context.exit(int(ExitCode.NOT_HANDLED))


def _findings(info: ScheduleInfo, now_ms: int) -> list[tuple[str, str, str]]:
    if info.definition is None or info.broken:
        return [(info.id, "broken", info.broken)]
    return [(found.schedule, found.code, found.text) for found in lint(info.definition, now_ms)]


@click.command(cls=CeleryCommand, name="export", epilog=EXIT_CODES)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@as_json_option
@click.pass_context
@reported
def export_schedules(context: click.Context, path: str, as_json: bool) -> None:
    """Write the schedules that were added at run time to FILE (- for stdout), one line of JSON each.

    Those that code declares come back by themselves. `import --from export` reads the file. It contains the secrets in
    what they send.
    """
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.private_files import open_private
    from orchestrator.schedules.importing.exported import line_of

    written = 0
    with open_private(Path(path)) as out:
        for info in orchestrator_of(context).schedules.infos():
            if info.source == "dynamic" and info.text:
                out.write(line_of(info) + "\n")
                written += 1
    if path != "-":
        if as_json:
            print_document({"exported": written, "file": path})
        else:
            click.echo(one_line(f"{written} schedules written to {path}"))
    elif as_json:
        raise Stop("--json goes with a FILE; what - prints is JSON already", ExitCode.CALLER)
