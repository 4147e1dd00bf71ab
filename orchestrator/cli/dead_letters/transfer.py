"""``celery -A APP dead-letters export | import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryCommand

from orchestrator.cli.dead_letters.letter_filter import audit_options, filter_options, selection
from orchestrator.cli.dead_letters.options import dry_run_option, print_result
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option
from orchestrator.cli.output.private_files import open_private
from orchestrator.cli.output.progress import progress_bar
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.plural import counted


@click.command(cls=CeleryCommand, name="export", epilog=EXIT_CODES)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@filter_options
@audit_options
@as_json_option
@click.pass_context
@reported
def export_letters(
    context: click.Context, /, path: Path, who: str | None, why: str, as_json: bool, **options: Any
) -> None:
    """Write dead letters to FILE (- for stdout), one line of JSON each. The file contains their secrets."""
    chosen = selection(orchestrator_of(context), options)
    written = 0
    with progress_bar("exporting", chosen.count()) as progress, open_private(path) as out:
        for line in chosen.export(who=who, why=why):
            out.write(line + "\n")
            written += 1
            progress(1)
    if str(path) != "-":
        print_result(
            as_json, {"exported": written, "file": str(path)}, f"{counted(written, 'dead letter')} written to {path}"
        )


@click.command(cls=CeleryCommand, name="import", epilog=EXIT_CODES)
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dry_run_option("Check the file, and import nothing.")
@audit_options
@as_json_option
@click.pass_context
@reported
def import_letters(context: click.Context, path: Path, dry_run: bool, who: str | None, why: str, as_json: bool) -> None:
    """Import dead letters that `export` wrote. All lines are checked before the first letter is imported.

    Letters that are already in the log are skipped, so an import can be repeated.
    """
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    with progress_bar("checking", None) as progress, path.open("rb") as source:
        log.import_lines(source, check_only=True, progress=progress)
    if dry_run:
        print_result(as_json, {"valid": True}, "every line is valid")
        return
    with progress_bar("importing", None) as progress, path.open("rb") as source:
        added, known = log.import_lines(source, who=who, why=why, progress=progress)
    print_result(
        as_json,
        {"added": added, "known": known},
        f"{counted(added, 'dead letter')} added, {known} skipped, already in the log",
    )
