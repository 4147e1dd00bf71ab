"""``python -m workers``, as ``make demo`` runs it: the demo's command line."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from orchestrator.cli.reported_errors import ExitCode, Stop
from orchestrator.core.errors import CallerError, OrchestratorError

_EXIT_CODES = """\b
Exit codes:
  0    every message was handled or is a dead letter; none is pending, none is lost
  1    that is not so, or something that had to happen did not
  2    what was asked for cannot be done as asked
  130  Ctrl-C"""


@click.command(name="demo", epilog=_EXIT_CODES)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--chaos/--no-chaos",
    default=True,
    show_default=True,
    help="SIGKILL an auditor one third through; and add a file that cannot be decoded, and a message that kills "
    "its worker.",
)
@click.option(
    "--auditors",
    type=click.IntRange(2, 64),
    default=2,
    show_default=True,
    help="How many workers audit. What a killed one held runs on another.",
)
@click.option("--watch", is_flag=True, help="Show every second where the workflow is, step by step.")
def demo(path: Path | None, chaos: bool, auditors: int, watch: bool) -> None:
    """Audit a tree of Python files for unsupervised Celery sends, with real workers and a real SIGKILL.

    It is a workflow, in workers/main_job.py: find the files, audit each of them, and sum up.

    PATH is a directory or a file; without it, the installed packages of this environment. Redis is one of the
    demo's own, unless a broker is named (ORCHESTRATOR_BROKER_URL or a profile): there the demo keeps to a key
    prefix of its own.
    """
    try:
        # The app refuses bad settings when it is imported.
        from workers.demo import run

        sys.exit(run(path, chaos=chaos, auditors=auditors, watch=watch))
    except OrchestratorError as error:
        raise Stop(str(error), ExitCode.CALLER if isinstance(error, CallerError) else ExitCode.NOT_HANDLED) from error
    except KeyboardInterrupt:
        click.echo("demo: stopped", err=True)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    demo()
