"""``celery -A APP workflows pause | resume | cancel | post``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.printable import one_line
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported

if TYPE_CHECKING:
    from orchestrator.workflows.records import ControlResult
    from orchestrator.workflows.run import Run

#: A run's id on the command line.
run_id = click.argument("run_id", metavar="ID")

_CODES = exit_codes(failed="nothing was changed: it has ended, or was so already")


def _control(context: click.Context, run_id: str, as_json: bool, act: Callable[[Run], ControlResult]) -> None:
    """Act on a run, and print what that came to."""
    run = orchestrator_of(context).workflows.get(run_id)
    result = act(run)
    if as_json:
        print_document({"id": run.id, "uid": run.uid, "result": result})
    elif result == "done":
        click.echo(one_line(f"{run.id}: {result}"))
    if result != "done":
        raise Stop(f"{run.id}: {result}", ExitCode.NOT_HANDLED)


@click.command(cls=CeleryCommand, name="pause", epilog=_CODES)
@run_id
@as_json_option
@click.pass_context
@reported
def pause_run(context: click.Context, run_id: str, as_json: bool) -> None:
    """Begin no further step of run ID. Steps that a worker has begun go on; others are taken back."""
    _control(context, run_id, as_json, lambda run: run.pause())


@click.command(cls=CeleryCommand, name="resume", epilog=_CODES)
@run_id
@as_json_option
@click.pass_context
@reported
def resume_run(context: click.Context, run_id: str, as_json: bool) -> None:
    """Go on with run ID after a pause."""
    _control(context, run_id, as_json, lambda run: run.resume())


@click.command(cls=CeleryCommand, name="cancel", epilog=_CODES)
@run_id
@click.option(
    "--compensate", is_flag=True, cls=CeleryOption, help="Then send the compensations of handled steps, the last first."
)
@as_json_option
@click.pass_context
@reported
def cancel_run(context: click.Context, run_id: str, compensate: bool, as_json: bool) -> None:
    """Begin nothing more of run ID. Steps that no worker has begun are cancelled; those that run are not retried."""
    _control(context, run_id, as_json, lambda run: run.cancel(compensate=compensate))


@click.command(cls=CeleryCommand, name="post", epilog=_CODES)
@run_id
@click.argument("event", metavar="EVENT")
@click.argument("payload", metavar="[JSON]", default="null")
@as_json_option
@click.pass_context
@reported
def post_event(context: click.Context, run_id: str, event: str, payload: str, as_json: bool) -> None:
    """Post EVENT, with JSON data, to run ID, for steps that wait for it now or later. Of an event, the first counts."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise Stop(f"the payload is not JSON: {error}", ExitCode.CALLER) from None
    _control(context, run_id, as_json, lambda run: run.post(event, value))
