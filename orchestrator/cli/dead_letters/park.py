"""``celery -A APP dead-letters park | unpark | purge``."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.dead_letters.letter_filter import require_only_id, require_selection, selection
from orchestrator.cli.dead_letters.options import (
    change_options,
    confirm,
    count_only_option,
    print_changed,
    print_result,
    yes_option,
)
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.progress import progress_bar
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, exit_codes, reported
from orchestrator.core.plural import counted


@click.command(cls=CeleryCommand, name="park", epilog=EXIT_CODES)
@change_options
@click.option("--note", required=True, cls=CeleryOption, help="Why the letters are parked.")
@click.pass_context
@reported
def park_letters(
    context: click.Context,
    /,
    letter_id: str | None,
    note: str,
    every: bool,
    who: str | None,
    why: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Park dead letters: they are not replayed automatically and do not expire; --state parked lists them."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    if letter_id is not None:
        require_only_id(options, every)
        log.park(letter_id, note, who=who, why=why)
        parked = [letter_id]
    else:
        chosen = selection(orchestrator, options)
        require_selection(chosen, every)
        parked = []
        with progress_bar("parking", chosen.count()) as progress:
            chosen.park(note, all=every, who=who, why=why, progress=progress, on_ids=parked.extend)
    print_changed(as_json, "parked", parked, f"{counted(len(parked), 'dead letter')} parked")


@click.command(cls=CeleryCommand, name="unpark", epilog=EXIT_CODES)
@change_options
@click.pass_context
@reported
def unpark_letters(
    context: click.Context,
    /,
    letter_id: str | None,
    every: bool,
    who: str | None,
    why: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Open parked dead letters."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    if letter_id is not None:
        require_only_id(options, every)
        log.unpark(letter_id, who=who, why=why)
        opened = [letter_id]
    else:
        given = {name for name, value in options.items() if value not in (None, ())} - {"state"}
        chosen = selection(orchestrator, {**options, "state": "parked"})
        if not given and not every:
            raise Stop("no letters selected; give an ID, a filter, or --all", ExitCode.CALLER)
        opened = []
        with progress_bar("opening", chosen.count()) as progress:
            chosen.unpark(all=every, who=who, why=why, progress=progress, on_ids=opened.extend)
    print_changed(as_json, "unparked", opened, f"{counted(len(opened), 'dead letter')} open again")


@click.command(cls=CeleryCommand, name="purge", epilog=exit_codes(failed="the confirmation was declined"))
@change_options
@yes_option()
@count_only_option
@click.pass_context
@reported
def purge_letters(
    context: click.Context,
    /,
    letter_id: str | None,
    every: bool,
    yes: bool,
    dry_run: bool,
    who: str | None,
    why: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Remove one dead letter, or all that a filter selects, for good. Asks for confirmation."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    if letter_id is not None:
        require_only_id(options, every)
        log.get(letter_id)
        chosen = log.query(state="all").only(letter_id)
    else:
        chosen = selection(orchestrator, options)
        require_selection(chosen, every)
        # Letters added after the question are not part of the answer.
        chosen = chosen.until_now()
    count = chosen.count()
    letters = counted(count, "dead letter")
    if dry_run:
        print_result(as_json, {"would_remove": count}, f"{letters} would be removed")
        return
    removed: list[str] = []
    if count:
        confirm(f"Remove {letters}?", f"{letters} would be removed", yes)
        with progress_bar("removing", count) as progress:
            chosen.purge(all=every, who=who, why=why, progress=progress, on_ids=removed.extend)
    print_changed(as_json, "removed", removed, f"{counted(len(removed), 'dead letter')} removed")
