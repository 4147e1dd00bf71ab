"""``celery -A APP schedules``: the group of commands for schedules."""

from __future__ import annotations

import click

from orchestrator.cli.reported_errors import EXIT_CODES
from orchestrator.cli.schedules.add import add_schedule, update_schedule
from orchestrator.cli.schedules.control import (
    backfill_schedule,
    pause_schedule,
    remove_schedule,
    resume_schedule,
    trigger_schedule,
)
from orchestrator.cli.schedules.show import (
    explain_schedule,
    export_schedules,
    lint_schedules,
    list_schedules,
    preview_schedule,
    show_history,
    show_schedule,
)
from orchestrator.cli.schedules.take_over import import_schedules


@click.group(name="schedules", epilog=EXIT_CODES)
def schedules() -> None:
    """List schedules, show and explain them; add, change, pause and trigger them; take over those of another beat."""


for _command in (
    *(list_schedules, show_schedule, preview_schedule, show_history, explain_schedule, lint_schedules),
    *(add_schedule, update_schedule, pause_schedule, resume_schedule, trigger_schedule, backfill_schedule),
    *(remove_schedule, export_schedules, import_schedules),
):
    schedules.add_command(_command)
