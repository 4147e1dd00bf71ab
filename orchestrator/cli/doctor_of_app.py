"""``celery -A APP doctor``: ``orchestrator doctor`` for the Redis that an app uses."""

from __future__ import annotations

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.doctor import examine
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported


@click.command(
    cls=CeleryCommand,
    name="doctor",
    epilog=exit_codes(
        ok="every check is ok or a warning", failed="a check failed: a worker would refuse to start, or wait"
    ),
)
@as_json_option
@click.pass_context
@reported
def doctor(context: click.Context, as_json: bool) -> None:
    """Check whether the app's Redis is fit: version, eviction, persistence, rights, types of keys. Nothing is written.

    `orchestrator doctor` checks a Redis without an app, also one given with --broker.
    """
    orchestrator = orchestrator_of(context)
    if orchestrator.eager:
        raise Stop("the app is in eager mode (task_always_eager), which uses no Redis", ExitCode.CALLER)
    text, passed = examine(orchestrator.runtime.store, orchestrator.settings.eviction, as_json=as_json)
    click.echo(text)
    if not passed:
        context.exit(ExitCode.NOT_HANDLED)
