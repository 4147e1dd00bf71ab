"""``celery -A APP schedules add | update``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, reported
from orchestrator.cli.schedules.schedule_documents import Moment, schedule_id
from orchestrator.cli.send import build, read_fields
from orchestrator.core.policies.policy import Retry
from orchestrator.core.schedules.lint import lint

#: Option of the command line -> option of the API, its type, what it says.
_OPTIONS: tuple[tuple[str, str, Any, str], ...] = (
    ("--cron", "cron", str, "Five fields: minute, hour, day of month, month, day of week."),
    ("--every", "every_s", Duration(), "A fixed rate, as 30s or 0.5."),
    ("--at", "at", Moment(needs_zone=True), "One moment, as 2026-10-25T02:30Z."),
    ("--tz", "tz", str, "The zone of --cron, as Europe/Berlin; the app's unless given."),
    ("--dst-gap", "dst_gap", str, "What happens to a time that the clock skips: shift or skip."),
    ("--dst-fold", "dst_fold", str, "Which of two moments with the same local time counts: first, second or both."),
    ("--start", "start", Moment(needs_zone=True), "No time before this moment."),
    ("--end", "end", Moment(needs_zone=True), "No time after this moment."),
    ("--max-runs", "max_runs", int, "End after this many fires."),
    ("--jitter", "jitter_s", Duration(), "Delay each fire by up to this long."),
    ("--misfire", "misfire", str, "What becomes of times that were not fired when due: coalesce, all or skip."),
    ("--misfire-grace", "misfire_grace_s", Duration(), "A time that is later than this is missed."),
    ("--overlap", "overlap", str, "While the last delivery has no outcome: allow, skip or buffer_one."),
    ("--on-error", "on_error", str, "As for a send: raise, log, dead_letter or ignore."),
    ("--timeout", "timeout_s", Duration(), "Time that one attempt may take."),
    ("--deadline", "deadline_s", Duration(), "Time within which all attempts must have ended."),
    ("--expires", "expires_s", Duration(), "Time after which a fire is no longer to be handled."),
    ("--priority", "priority", int, "0 (first) to 9 (last)."),
)


def schedule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a schedule to a command."""
    decorate: list[Any] = [
        click.option(
            flag,
            name,
            type=kind,
            cls=CeleryOption,
            help=text,
            metavar=METAVAR if isinstance(kind, Duration) else "MOMENT" if isinstance(kind, Moment) else None,
        )
        for flag, name, kind, text in _OPTIONS
    ]
    decorate += [
        click.option(
            "--pause-on-failure/--no-pause-on-failure",
            "pause_on_failure",
            default=None,
            cls=CeleryOption,
            help="Pause when a delivery is not handled.",
        ),
        click.option("--retries", type=int, cls=CeleryOption, help="Retries after the first attempt of a fire."),
    ]
    for decorator in reversed(decorate):
        command = decorator(command)
    return command


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    if "retries" in given:
        given["retry"] = Retry(max_retries=given.pop("retries"))
    return given


@click.command(cls=CeleryCommand, name="add", epilog=EXIT_CODES)
@schedule_id
@click.option("--task", metavar="NAME", cls=CeleryOption, help="The Celery task that is sent.")
@click.option("--args", "args_text", metavar="JSON", cls=CeleryOption, help="Its arguments, a list.")
@click.option("--kwargs", "kwargs_text", metavar="JSON", cls=CeleryOption, help="Its keyword arguments, an object.")
@click.option("--queue", metavar="NAME", cls=CeleryOption, help="The queue of --task, instead of what routes it.")
@click.option("--agent", metavar="NAME", cls=CeleryOption, help="Instead of --task: the agent that gets --message.")
@click.option("--message", metavar="NAME", cls=CeleryOption, help="The message's class.")
@click.option("--fields", default="{}", metavar="JSON", cls=CeleryOption, help="The message's fields, an object.")
@click.option(
    "--if-exists",
    default="error",
    cls=CeleryOption,
    type=click.Choice(["error", "replace", "keep"]),
    help="What to do if there is a schedule of that name.",
)
@schedule_options
@as_json_option
@click.pass_context
@reported
def add_schedule(
    context: click.Context,
    /,
    schedule_id: str,
    task: str | None,
    args_text: str | None,
    kwargs_text: str | None,
    queue: str | None,
    agent: str | None,
    message: str | None,
    fields: str,
    if_exists: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Add schedule NAME: a task or an agent's message, at the times that one of --cron, --every and --at says."""
    orchestrator = orchestrator_of(context)
    if (task is None) is (agent is None) or (agent is None) is not (message is None):
        raise Stop("allowed: either --task, or --agent with --message", ExitCode.CALLER)
    built, recipient = None, agent
    if agent is not None and message is not None:
        built = build(orchestrator, agent, message, read_fields(message, fields))
    else:
        sent = {} if queue is None else {"queue": queue}
        recipient = context.obj.app.signature(
            task, args=_json("--args", args_text, []), kwargs=_json("--kwargs", kwargs_text, {}), **sent
        )
    given: Any = _given(options)
    orchestrator.schedules.add(schedule_id, recipient, built, if_exists=if_exists, **given)
    _print_added(context, schedule_id, as_json)


@click.command(cls=CeleryCommand, name="update", epilog=EXIT_CODES)
@schedule_id
@schedule_options
@as_json_option
@click.pass_context
@reported
def update_schedule(context: click.Context, /, schedule_id: str, as_json: bool, **options: Any) -> None:
    """Change options of schedule NAME. The next time stays, unless the times themselves change."""
    given: Any = _given(options)
    if not given:
        raise Stop("nothing to change; allowed: at least one option of the schedule", ExitCode.CALLER)
    orchestrator_of(context).schedules[schedule_id].update(**given)
    _print_added(context, schedule_id, as_json)


def _print_added(context: click.Context, schedule_id: str, as_json: bool) -> None:
    """Print the next times, and what may surprise about them."""
    schedules = orchestrator_of(context).schedules
    info = schedules.get_info(schedule_id)
    times = [at.isoformat(" ") for at in schedules[schedule_id].preview(5)]
    findings = [] if info.definition is None else lint(info.definition, schedules.now_ms())
    if as_json:
        warnings = [{"code": finding.code, "text": finding.text} for finding in findings]
        print_document({"id": schedule_id, "times": times, "warnings": warnings})
        return
    click.echo(one_line(f"{schedule_id}: next {', '.join(times) or 'never'}"))
    for finding in findings:
        click.echo(one_line(f"Warning: {finding.code}: {finding.text}"), err=True)


def _json(option: str, text: str | None, default: Any) -> Any:
    try:
        data = default if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Stop(f"{option} {text!r} is not JSON: {error}", ExitCode.CALLER) from None
    if type(data) is not type(default):
        kind = "a list" if isinstance(default, list) else "an object"
        raise Stop(f"{option} {text!r} is not allowed; allowed: {kind} in JSON", ExitCode.CALLER)
    return data
