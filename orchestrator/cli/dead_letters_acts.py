"""``celery -A APP dead-letters replay | edit | park | unpark | purge | export | import``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.letter_filter import act_options, filter_options, must_be_meant, must_be_one, selection
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.printable import lines, one_line
from orchestrator.cli.progress import progress_bar
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, exit_codes, reported
from orchestrator.core.plural import counted
from orchestrator.core.times import age
from orchestrator.deadletters.replay import Canary
from orchestrator.deadletters.store import ReplayedLetter

_every = click.option("--all", "every", is_flag=True, cls=CeleryOption, help="All letters in that state.")


def _dry_run(help_: str) -> Any:
    return click.option("--dry-run", is_flag=True, cls=CeleryOption, help=help_)


_count_only = _dry_run("Only say how many it would be.")
_optional_id = click.argument("letter_id", metavar="[ID]", required=False)


@click.command(
    cls=CeleryCommand,
    name="replay",
    epilog=exit_codes(ExitCode.REFUSED, failed="it stopped before all were replayed"),
)
@_optional_id
@click.option("--rate", "rate_per_s", type=float, metavar="N", cls=CeleryOption, help="At most so many a second.")
@click.option("--at-most", type=click.IntRange(1), metavar="N", cls=CeleryOption, help="The oldest N.")
@click.option("--canary", is_flag=True, cls=CeleryOption, help="One first, then ten, then the others; stops itself.")
@click.option(
    "--max-failure-rate",
    type=click.FloatRange(0, 1),
    cls=CeleryOption,
    help=f"The canary stops when more than this part of them has died again; {Canary().max_failure_rate} by default.",
)
@click.option(
    "--wait",
    "wait_s",
    type=Duration(),
    metavar=METAVAR,
    cls=CeleryOption,
    help=f"How long the canary waits for each lot to end before it stops; {age(Canary().wait_s)} by default.",
)
@_every
@filter_options
@_count_only
@act_options
@as_json_option
@click.pass_context
@reported
def retry_letters(
    context: click.Context,
    /,
    letter_id: str | None,
    rate_per_s: float | None,
    at_most: int | None,
    canary: bool,
    max_failure_rate: float | None,
    wait_s: float | None,
    every: bool,
    dry_run: bool,
    who: str | None,
    why: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Send one dead letter again, or all that a filter means, as first attempts.

    Each leaves the log in the same step, so what two operators retry at once is sent once.
    """
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    given: dict[str, Any] = {"max_failure_rate": max_failure_rate, "wait_s": wait_s}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not canary:
        raise Stop("--max-failure-rate and --wait are the canary's; add --canary", ExitCode.CALLER)
    if letter_id is not None:
        must_be_one(options, every)
        for name, value in (("--at-most", at_most), ("--rate", rate_per_s), ("--canary", canary or None)):
            if value is not None:
                raise Stop(f"{name} is for many letters, not for an ID", ExitCode.CALLER)
        letter = log.get(letter_id)
        if dry_run:
            _say(as_json, {"would_replay": 1}, f"{letter_id} would be replayed")
            return
        queue = log.replay(letter_id, who=who, why=why)
        sent_one = ReplayedLetter(letter_id, queue, delivery_id=letter.delivery_id)
        _say(as_json, _document(sent_one), _describe_replay(sent_one))
        return
    chosen = selection(orchestrator, options)
    must_be_meant(chosen, every)
    count = chosen.count() if at_most is None else min(at_most, chosen.count())
    if dry_run:
        _say(as_json, {"would_replay": count}, f"{counted(count, 'dead letter')} would be replayed")
        return
    sent: list[ReplayedLetter] = []
    with progress_bar("replaying", count) as progress:
        done = chosen.replay(
            all=every,
            rate_per_s=rate_per_s,
            canary=Canary(**given) if canary else None,
            at_most=at_most,
            who=who,
            why=why,
            progress=progress,
            on_sent=sent.append,
        )
    document = {
        "audit_id": done.audit_id,
        "sent": done.sent,
        "dead_again": done.dead,
        "stopped": done.stopped,
        "letters": [_document(one) for one in sent],
    }
    said = f"{counted(done.sent, 'dead letter')} replayed; {done.dead} of them dead again so far"
    _say(as_json, document, "\n".join([*map(_describe_replay, sent), said]))
    if done.stopped:
        raise Stop(f"stopped: {done.stopped}", ExitCode.NOT_HANDLED)


def _document(sent: ReplayedLetter) -> dict[str, Any]:
    return {"id": sent.letter_id, "queue": sent.queue, "delivery_id": sent.delivery_id}


def _describe_replay(sent: ReplayedLetter) -> str:
    which = f" as delivery {one_line(sent.delivery_id)}" if sent.delivery_id else ""
    return f"{sent.letter_id} replayed to {one_line(sent.queue)}{which}"


@click.command(
    cls=CeleryCommand,
    name="edit",
    epilog=exit_codes(ExitCode.REFUSED, failed="the question was answered with no"),
)
@click.argument("letter_id", metavar="ID")
@click.argument("changes", metavar="CHANGES")
@click.option("--yes", is_flag=True, cls=CeleryOption, help="Do not ask.")
@_dry_run("Only show what would change.")
@act_options
@as_json_option
@click.pass_context
@reported
def edit_letter(
    context: click.Context,
    letter_id: str,
    changes: str,
    yes: bool,
    dry_run: bool,
    who: str | None,
    why: str,
    as_json: bool,
) -> None:
    """Send a dead letter again with some fields changed. CHANGES is a JSON object: '{"cents": 500}'.

    The message must fit its model. Shows what changes, and asks.
    """
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    try:
        wanted = json.loads(changes)
    except ValueError as error:
        raise Stop(f"CHANGES is not JSON: {error}", ExitCode.CALLER) from None
    edit = log.edit(letter_id, wanted)
    if not as_json:
        click.echo(lines(edit.diff()))
    if dry_run:
        if as_json:
            print_document({"id": letter_id, "diff": edit.diff()})
        return
    _ask("Replay it with these changes?", f"{letter_id} would be replayed, changed", yes)
    queue = log.edit_and_replay(letter_id, wanted, who=who, why=why)
    sent = ReplayedLetter(letter_id, queue, delivery_id=edit.letter.delivery_id)
    _say(as_json, {**_document(sent), "diff": edit.diff()}, f"{_describe_replay(sent)}, changed")


@click.command(cls=CeleryCommand, name="park", epilog=EXIT_CODES)
@_optional_id
@click.option("--note", required=True, cls=CeleryOption, help="What whoever finds it should know.")
@_every
@filter_options
@act_options
@as_json_option
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
    """Put dead letters aside: they are not retried or expired, and listed only with --state parked."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    if letter_id is not None:
        must_be_one(options, every)
        log.park(letter_id, note, who=who, why=why)
        parked = [letter_id]
    else:
        chosen = selection(orchestrator, options)
        must_be_meant(chosen, every)
        parked = []
        with progress_bar("parking", chosen.count()) as progress:
            chosen.park(note, all=every, who=who, why=why, progress=progress, on_ids=parked.extend)
    _say_ids(as_json, "parked", parked, f"{counted(len(parked), 'dead letter')} parked")


@click.command(cls=CeleryCommand, name="unpark", epilog=EXIT_CODES)
@_optional_id
@_every
@filter_options
@act_options
@as_json_option
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
    """Make parked dead letters open again."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    if letter_id is not None:
        must_be_one(options, every)
        log.unpark(letter_id, who=who, why=why)
        opened = [letter_id]
    else:
        given = {name for name, value in options.items() if value not in (None, ())} - {"state"}
        chosen = selection(orchestrator, {**options, "state": "parked"})
        if not given and not every:
            raise Stop("which letters? Give an ID, a filter, or --all", ExitCode.CALLER)
        opened = []
        with progress_bar("opening", chosen.count()) as progress:
            chosen.unpark(all=every, who=who, why=why, progress=progress, on_ids=opened.extend)
    _say_ids(as_json, "unparked", opened, f"{counted(len(opened), 'dead letter')} open again")


@click.command(cls=CeleryCommand, name="purge", epilog=exit_codes(failed="the question was answered with no"))
@_optional_id
@_every
@click.option("--yes", is_flag=True, cls=CeleryOption, help="Do not ask.")
@filter_options
@_count_only
@act_options
@as_json_option
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
    """Remove one dead letter, or all that a filter means. Asks first; what is removed is gone."""
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    if letter_id is not None:
        must_be_one(options, every)
        log.get(letter_id)
        chosen = log.query(state="all").only(letter_id)
    else:
        chosen = selection(orchestrator, options)
        must_be_meant(chosen, every)
        # What comes while somebody thinks about the answer, nobody has agreed to.
        chosen = chosen.until_now()
    count = chosen.count()
    letters = counted(count, "dead letter")
    if dry_run:
        _say(as_json, {"would_remove": count}, f"{letters} would be removed")
        return
    removed: list[str] = []
    if count:
        _ask(f"Remove {letters}?", f"{letters} would be removed", yes)
        with progress_bar("removing", count) as progress:
            chosen.purge(all=every, who=who, why=why, progress=progress, on_ids=removed.extend)
    _say_ids(as_json, "removed", removed, f"{counted(len(removed), 'dead letter')} removed")


@click.command(cls=CeleryCommand, name="export", epilog=EXIT_CODES)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@filter_options
@act_options
@as_json_option
@click.pass_context
@reported
def export_letters(
    context: click.Context, /, path: Path, who: str | None, why: str, as_json: bool, **options: Any
) -> None:
    """Write dead letters to FILE (- for stdout), a line of JSON each. They keep their secrets: guard the file."""
    chosen = selection(orchestrator_of(context), options)
    written = 0
    with progress_bar("exporting", chosen.count()) as progress, _private(path) as out:
        for line in chosen.export(who=who, why=why):
            out.write(line + "\n")
            written += 1
            progress(1)
    if str(path) != "-":
        _say(as_json, {"exported": written, "file": str(path)}, f"{counted(written, 'dead letter')} written to {path}")


@click.command(cls=CeleryCommand, name="import", epilog=EXIT_CODES)
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_dry_run("Only check the file.")
@act_options
@as_json_option
@click.pass_context
@reported
def import_letters(context: click.Context, path: Path, dry_run: bool, who: str | None, why: str, as_json: bool) -> None:
    """Take in dead letters that `export` wrote. Every line is checked before the first is taken.

    A letter that is here already is passed over, so importing a file twice does no harm.
    """
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    with progress_bar("checking", None) as progress, path.open("rb") as source:
        log.import_lines(source, check_only=True, progress=progress)
    if dry_run:
        _say(as_json, {"valid": True}, "every line is valid")
        return
    with progress_bar("importing", None) as progress, path.open("rb") as source:
        added, known = log.import_lines(source, who=who, why=why, progress=progress)
    _say(as_json, {"added": added, "known": known}, f"{counted(added, 'dead letter')} added, {known} already here")


def _private(path: Path) -> IO[str]:
    """The file, for its owner's eyes only."""
    if str(path) == "-":
        return open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise Stop(f"{path}: {error.strerror}", ExitCode.CALLER) from None


def _say(as_json: bool, document: dict[str, Any], text: str) -> None:
    if as_json:
        print_document(document)
    else:
        click.echo(text)


def _say_ids(as_json: bool, did: str, ids: list[str], text: str) -> None:
    """How many letters an act reached, and which."""
    _say(as_json, {did: len(ids), "ids": ids}, "\n".join([*ids, text]))


def _ask(question: str, would: str, yes: bool) -> None:
    if yes:
        return
    if not can_ask():
        raise Stop(f"{would}; say --yes, as nobody can be asked", ExitCode.CALLER)
    if not click.confirm(question, err=True):
        raise Stop("nothing was changed", ExitCode.NOT_HANDLED)


def can_ask() -> bool:
    """Whether somebody sits at the other end."""
    return sys.stdin.isatty()


#: What acts on dead letters.
ACTS = (
    retry_letters,
    edit_letter,
    park_letters,
    unpark_letters,
    purge_letters,
    export_letters,
    import_letters,
)
