"""``celery -A APP workflows start``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.core.spelling.nearest import meant

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.workflows.functions.function import WorkflowFunction


@click.command(cls=CeleryCommand, name="start", epilog=exit_codes())
@click.argument("name", metavar="NAME")
@click.option(
    "--args",
    "arguments",
    metavar="JSON",
    default="[]",
    cls=CeleryOption,
    help="Its arguments: a list, or an object with their names.",
)
@click.option("--id", "workflow_id", metavar="TEXT", cls=CeleryOption, help="The run's id, instead of a made-up one.")
@click.option("--deadline", "deadline_s", metavar="SECONDS", type=float, cls=CeleryOption, help="Cancel it after that.")
@as_json_option
@click.pass_context
@reported
def start_run(
    context: click.Context, name: str, arguments: str, workflow_id: str | None, deadline_s: float | None, as_json: bool
) -> None:
    """Start a run of the workflow function NAME, which the app declares. With --id, a second start finds the first."""
    orchestrator = orchestrator_of(context)
    args, kwargs = _parsed(arguments)
    function: Any = _function(orchestrator, name)
    if reserved := {"workflow", "workflow_id", "deadline_s"} & kwargs.keys():
        raise Stop(f"--args has {', '.join(sorted(reserved))}; allowed: arguments of {name}", ExitCode.CALLER)
    run = orchestrator.workflows.start(function, *args, workflow_id=workflow_id, deadline_s=deadline_s, **kwargs)
    if as_json:
        print_document({"id": run.id, "uid": run.uid})
    else:
        click.echo(one_line(f"{name}: started as {run.id}"))


def _parsed(arguments: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise Stop(f"--args is no JSON: {error}; allowed: a list or an object", ExitCode.CALLER) from None
    if isinstance(parsed, list):
        return parsed, {}
    if isinstance(parsed, dict):
        return [], parsed
    raise Stop(f"--args {arguments!r}; allowed: a list or an object", ExitCode.CALLER)


def _function(orchestrator: Orchestrator, name: str) -> WorkflowFunction[..., Any]:
    functions = orchestrator.runtime.functions
    named = [function for function in functions.values() if name in (function.name, function.task_name)]
    if len(named) > 1:
        tasks = ", ".join(sorted(function.task_name for function in named))
        raise Stop(f"{len(named)} functions have the name {name!r}; allowed: {tasks}", ExitCode.CALLER)
    if not named:
        known = sorted(function.name for function in functions.values())
        said = f"unknown workflow function {name!r}; known: {', '.join(known) or 'none'}{meant(name, known)}"
        raise Stop(one_line(said), ExitCode.CALLER)
    return named[0]
