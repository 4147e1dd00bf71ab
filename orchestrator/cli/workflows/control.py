"""``celery -A APP workflows pause | resume | cancel | compensate | retry | post``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.core.plural import counted
from orchestrator.core.spelling.nearest import meant

if TYPE_CHECKING:
    from orchestrator.workflows.records import ControlResult
    from orchestrator.workflows.run import Run
    from orchestrator.workflows.workflows import Workflows

#: A run's id on the command line.
run_id = click.argument("run_id", metavar="ID")

_optional_run_id = click.argument("run_id", metavar="[ID]", required=False)

_CODES = exit_codes(failed="nothing was changed: it has ended, or was so already")


def _control(
    context: click.Context,
    run_id: str,
    as_json: bool,
    act: Callable[[Run], ControlResult],
    why: Mapping[str, str] | None = None,
) -> None:
    """Act on a run, and print what that came to; ``why`` says of a result why it came to nothing."""
    run = orchestrator_of(context).workflows.get(run_id)
    result = act(run)
    if as_json:
        print_document({"id": run.id, "uid": run.uid, "result": result})
    elif result == "done":
        click.echo(one_line(f"{run.id}: {result}"))
    if result != "done":
        raise Stop(f"{run.id}: {result}{(why or {}).get(result, '')}", ExitCode.NOT_HANDLED)


_name_option = click.option(
    "--name", metavar="NAME", cls=CeleryOption, help="Instead of ID: all runs of this workflow, those to come too."
)


def _control_one_or_all(
    context: click.Context,
    run_id: str | None,
    name: str | None,
    as_json: bool,
    one: Callable[[Run], ControlResult],
    all_of: Callable[[Workflows, str], int],
    done: str,
) -> None:
    """Act on a run, or on all of a workflow and print how many this changed; ``done`` is what they are then."""
    if run_id is not None and name is None:
        _control(context, run_id, as_json, one)
        return
    if run_id is not None or name is None:
        raise Stop("allowed: either ID or --name", ExitCode.CALLER)
    count = all_of(orchestrator_of(context).workflows, name)
    if as_json:
        print_document({"name": name, done: count})
    else:
        click.echo(one_line(f"{name}: {counted(count, 'run')} {done}"))


@click.command(cls=CeleryCommand, name="pause", epilog=_CODES)
@_optional_run_id
@_name_option
@as_json_option
@click.pass_context
@reported
def pause_run(context: click.Context, run_id: str | None, name: str | None, as_json: bool) -> None:
    """Begin no further step of run ID. Steps that a worker has begun go on; others are taken back."""
    _control_one_or_all(
        context, run_id, name, as_json, lambda run: run.pause(), lambda all_, name: all_.pause(name), "paused"
    )


@click.command(cls=CeleryCommand, name="resume", epilog=_CODES)
@_optional_run_id
@_name_option
@as_json_option
@click.pass_context
@reported
def resume_run(context: click.Context, run_id: str | None, name: str | None, as_json: bool) -> None:
    """Go on with run ID after a pause."""
    _control_one_or_all(
        context, run_id, name, as_json, lambda run: run.resume(), lambda all_, name: all_.resume(name), "resumed"
    )


@click.command(cls=CeleryCommand, name="delete", epilog=_CODES)
@run_id
@click.option("--force", is_flag=True, cls=CeleryOption, help="Also one that goes on: it is cancelled first.")
@as_json_option
@click.pass_context
@reported
def delete_run(context: click.Context, run_id: str, force: bool, as_json: bool) -> None:
    """Forget run ID, which must have ended. What its steps still do counts in the ledger, and changes nothing."""
    _control(context, run_id, as_json, lambda run: run.delete(force=force))


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


@click.command(cls=CeleryCommand, name="compensate", epilog=_CODES)
@run_id
@as_json_option
@click.pass_context
@reported
def compensate_run(context: click.Context, run_id: str, as_json: bool) -> None:
    """Send the compensations of run ID, which has failed, the last first. Its steps are not retried after that."""
    _control(context, run_id, as_json, lambda run: run.compensate(), _NO_COMPENSATION)


_NO_COMPENSATION = {
    "not ended": "; allowed: workflows cancel ID --compensate",
    "nothing to compensate": "; no handled step of it has a compensation",
    "run cancelled": "; it was cancelled without compensation",
    "run completed": "; it has not failed",
    "run compensated": "; its compensation has begun already",
}


@click.command(cls=CeleryCommand, name="retry", epilog=_CODES)
@run_id
@click.argument("step", metavar="STEP")
@as_json_option
@click.pass_context
@reported
def retry_step(context: click.Context, run_id: str, step: str, as_json: bool) -> None:
    """Have a failed STEP of run ID begin again, of a map its failed items, and the run go on."""
    _control(context, run_id, as_json, lambda run: run.retry(step), _NO_RETRY)


_NO_RETRY = {
    "not failed": "; allowed: a step that is dead, expired or cancelled",
    "replayed": "; a dead letter of it was replayed, and has no outcome yet",
    "others began": "; it is too late, for other steps have begun on the failure of this one",
    "run cancelled": "; it is too late, for nothing of the run begins any more",
    "run completed": "; it is too late, for the run has gone on without this step",
    "run compensated": "; it is too late, for the run's compensation has begun",
}


@click.command(cls=CeleryCommand, name="fork", epilog=exit_codes())
@run_id
@click.option("--after", metavar="STEP", required=True, cls=CeleryOption, help="Begin what is downstream of this step.")
@click.option(
    "--id", "workflow_id", metavar="TEXT", cls=CeleryOption, help="The id of the new run, instead of a made-up one."
)
@as_json_option
@click.pass_context
@reported
def fork_run(context: click.Context, run_id: str, after: str, workflow_id: str | None, as_json: bool) -> None:
    """Start a new run with the outcomes of run ID, in which what is downstream of a step begins again."""
    run = orchestrator_of(context).workflows.get(run_id).fork(after=after, workflow_id=workflow_id)
    if as_json:
        print_document({"id": run.id, "uid": run.uid, "fork_of": run_id})
    else:
        click.echo(one_line(f"{run_id}: forked as {run.id}"))


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
    awaited = orchestrator_of(context).workflows.get(run_id).details().awaited
    if event not in awaited:
        # No error: the step that waits for it may not have been called yet.
        text = f"Warning: no step of {run_id} waits for the event {event} so far{meant(event, awaited)}"
        click.echo(one_line(text), err=True)
