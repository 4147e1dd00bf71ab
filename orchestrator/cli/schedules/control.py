"""``celery -A APP schedules pause | resume | trigger | backfill | remove``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.cli.schedules.schedule_documents import Moment, schedule_id
from orchestrator.core.plural import counted

_CODES = exit_codes(failed="nothing was changed: it was so already")
_SEND_CODES = exit_codes(ExitCode.REFUSED)


def _print(as_json: bool, document: dict[str, Any], line: str) -> None:
    if as_json:
        print_document(document)
    else:
        click.echo(one_line(line))


def _print_change(as_json: bool, name: str, was_changed: bool, done: str, already: str) -> None:
    if as_json:
        print_document({"id": name, "changed": was_changed})
    elif was_changed:
        click.echo(one_line(f"{name}: {done}"))
    if not was_changed:
        raise Stop(f"{name}: {already}", ExitCode.NOT_HANDLED)


@click.command(cls=CeleryCommand, name="pause", epilog=_CODES)
@schedule_id
@click.option("--reason", default="", metavar="TEXT", cls=CeleryOption, help="Shown by `show` and `explain`.")
@as_json_option
@click.pass_context
@reported
def pause_schedule(context: click.Context, schedule_id: str, reason: str, as_json: bool) -> None:
    """Fire schedule NAME no more until it is resumed."""
    changed = orchestrator_of(context).schedules[schedule_id].pause(reason)
    _print_change(as_json, schedule_id, changed, "paused", "paused already")


@click.command(cls=CeleryCommand, name="resume", epilog=_CODES)
@schedule_id
@click.option(
    "--catch-up",
    is_flag=True,
    cls=CeleryOption,
    help="Treat the times that passed meanwhile as the misfire policy says; without it they are skipped.",
)
@as_json_option
@click.pass_context
@reported
def resume_schedule(context: click.Context, schedule_id: str, catch_up: bool, as_json: bool) -> None:
    """End the pause of schedule NAME."""
    changed = orchestrator_of(context).schedules[schedule_id].resume(catch_up=catch_up)
    _print_change(as_json, schedule_id, changed, "resumed", "not paused")


@click.command(cls=CeleryCommand, name="trigger", epilog=_SEND_CODES)
@schedule_id
@as_json_option
@click.pass_context
@reported
def trigger_schedule(context: click.Context, schedule_id: str, as_json: bool) -> None:
    """Fire schedule NAME now, whatever is planned, paused or running. The plan goes on unchanged."""
    delivery = orchestrator_of(context).schedules[schedule_id].trigger()
    _print(as_json, {"id": schedule_id, "delivery": delivery}, f"{schedule_id}: fired as delivery {delivery}")


@click.command(cls=CeleryCommand, name="backfill", epilog=_SEND_CODES)
@schedule_id
@click.argument("begin", type=Moment(needs_zone=True), metavar="FROM")
@click.argument("end", type=Moment(needs_zone=True), metavar="TO")
@as_json_option
@click.pass_context
@reported
def backfill_schedule(context: click.Context, schedule_id: str, begin: datetime, end: datetime, as_json: bool) -> None:
    """Fire schedule NAME once for each of its times from FROM to TO, both included, as 2026-10-25T00:00Z."""
    count = orchestrator_of(context).schedules[schedule_id].backfill(begin, end)
    _print(as_json, {"id": schedule_id, "fired": count}, f"{schedule_id}: {counted(count, 'time')} fired")


@click.command(cls=CeleryCommand, name="remove", epilog=exit_codes(failed="there is no such schedule"))
@schedule_id
@as_json_option
@click.pass_context
@reported
def remove_schedule(context: click.Context, schedule_id: str, as_json: bool) -> None:
    """Remove schedule NAME, unless it is declared in code: such a one is paused, or its declaration changed."""
    removed = orchestrator_of(context).schedules[schedule_id].remove()
    _print_change(as_json, schedule_id, removed, "removed", "no such schedule")
