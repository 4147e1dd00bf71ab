"""``celery -A APP workflows``: the group of commands for runs of workflows."""

from __future__ import annotations

import click

from orchestrator.cli.reported_errors import EXIT_CODES
from orchestrator.cli.workflows.control import (
    cancel_run,
    compensate_run,
    delete_run,
    fork_run,
    pause_run,
    post_event,
    resume_run,
    retry_step,
)
from orchestrator.cli.workflows.show import draw_run, explain_run, list_runs, show_run
from orchestrator.cli.workflows.start import start_run


@click.group(name="workflows", epilog=EXIT_CODES)
def workflows() -> None:
    """Start runs of workflow functions; list, show and draw runs; pause, resume, cancel, fork and delete them."""


for _command in (
    *(start_run, list_runs, show_run, explain_run, draw_run, pause_run, resume_run, cancel_run),
    *(compensate_run, retry_step, fork_run, post_event, delete_run),
):
    workflows.add_command(_command)
