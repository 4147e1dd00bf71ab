"""``celery -A APP dead-letters``: the group of commands for dead letters."""

from __future__ import annotations

import click

from orchestrator.cli.dead_letters.list import list_letters, show_audit, show_groups, show_stats
from orchestrator.cli.dead_letters.park import park_letters, purge_letters, unpark_letters
from orchestrator.cli.dead_letters.replay import edit_letter, replay_letters
from orchestrator.cli.dead_letters.show import show_letter
from orchestrator.cli.dead_letters.transfer import export_letters, import_letters
from orchestrator.cli.reported_errors import EXIT_CODES


@click.group(name="dead-letters", epilog=EXIT_CODES)
def dead_letters() -> None:
    """List, replay, edit, park, export or remove dead letters."""


for _command in (
    *(list_letters, show_letter, show_groups, show_stats, show_audit),
    *(replay_letters, edit_letter, park_letters, unpark_letters, purge_letters, export_letters, import_letters),
):
    dead_letters.add_command(_command)
# The name of the same command in Oban.
dead_letters.add_command(replay_letters, name="retry")
