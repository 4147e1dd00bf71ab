"""``celery -A APP dead-letters replay | edit``."""

from __future__ import annotations

import json
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.dead_letters.letter_filter import (
    audit_options,
    filter_options,
    require_only_id,
    require_selection,
    selection,
)
from orchestrator.cli.dead_letters.options import (
    all_option,
    confirm,
    count_only_option,
    dry_run_option,
    optional_id,
    print_result,
    yes_option,
)
from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.printable import lines, one_line
from orchestrator.cli.output.progress import progress_bar
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.core.plural import counted
from orchestrator.core.times import age
from orchestrator.deadletters.replay import Canary
from orchestrator.deadletters.store import ReplayedLetter

#: A dry run asks neither runs nor mailboxes.
_UNLESS_REFUSED = "unless its run or mailbox refuses it"
_EXCEPT_REFUSED = "except those that their runs or mailboxes refuse"


@click.command(
    cls=CeleryCommand,
    name="replay",
    epilog=exit_codes(
        ExitCode.REFUSED, failed="the replay stopped before all letters were replayed, or some were refused"
    ),
)
@optional_id
@click.option(
    "--rate", "rate_per_s", type=float, metavar="N", cls=CeleryOption, help="Replay at most N letters a second."
)
@click.option(
    "--at-most", type=click.IntRange(1), metavar="N", cls=CeleryOption, help="Replay only the oldest N letters."
)
@click.option(
    "--canary",
    is_flag=True,
    cls=CeleryOption,
    help="Replay 1 letter, then 10, then the others; stop if too many die again.",
)
@click.option(
    "--max-failure-rate",
    type=click.FloatRange(0, 1),
    cls=CeleryOption,
    help=f"With --canary: stop when more than this share died again. [default: {Canary().max_failure_rate}]",
)
@click.option(
    "--wait",
    "wait_s",
    type=Duration(),
    metavar=METAVAR,
    cls=CeleryOption,
    help=f"With --canary: stop when a batch has not ended after this time. [default: {age(Canary().wait_s)}]",
)
@all_option
@filter_options
@count_only_option
@audit_options
@as_json_option
@click.pass_context
@reported
def replay_letters(
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
    """Replay one dead letter, or all that a filter selects, as first attempts.

    A letter leaves the log in the step that sends it, so two concurrent replays send it once.
    """
    orchestrator = orchestrator_of(context)
    log = orchestrator.dead_letters
    given: dict[str, Any] = {"max_failure_rate": max_failure_rate, "wait_s": wait_s}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not canary:
        raise Stop("--max-failure-rate and --wait need --canary", ExitCode.CALLER)
    if letter_id is not None:
        require_only_id(options, every)
        for name, value in (("--at-most", at_most), ("--rate", rate_per_s), ("--canary", canary or None)):
            if value is not None:
                raise Stop(f"{name} cannot be combined with an ID", ExitCode.CALLER)
        letter = log.get(letter_id)
        if dry_run:
            print_result(as_json, {"would_replay": 1}, f"{letter_id} would be replayed, {_UNLESS_REFUSED}")
            return
        delivery_id = log.replay(letter_id, who=who, why=why)
        sent_one = ReplayedLetter(letter_id, letter.queue, delivery_id=delivery_id)
        print_result(as_json, _document(sent_one), _describe_replay(sent_one))
        return
    chosen = selection(orchestrator, options)
    require_selection(chosen, every)
    count = chosen.count() if at_most is None else min(at_most, chosen.count())
    if dry_run:
        print_result(
            as_json, {"would_replay": count}, f"{counted(count, 'dead letter')} would be replayed, {_EXCEPT_REFUSED}"
        )
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
        "refused": [{"count": refused, "why": reason} for reason, refused in done.refused.items()],
        "skipped": done.skipped,
        "letters": [_document(one) for one in sent],
    }
    summary = f"{counted(done.sent, 'dead letter')} replayed; {done.dead} of them dead again so far"
    if done.skipped:
        summary += f"; {done.skipped} skipped: without a mailbox, or no longer in the log"
    print_result(as_json, document, "\n".join([*map(_describe_replay, sent), summary]))
    if done.stopped:
        raise Stop(f"stopped: {done.stopped}", ExitCode.NOT_HANDLED)
    if done.refused:
        reasons = (f"{counted(refused, 'dead letter')} refused: {reason}" for reason, refused in done.refused.items())
        raise Stop("; ".join(reasons), ExitCode.NOT_HANDLED)


def _document(sent: ReplayedLetter) -> dict[str, Any]:
    return {"id": sent.letter_id, "queue": sent.queue, "delivery_id": sent.delivery_id}


def _describe_replay(sent: ReplayedLetter) -> str:
    which = f" as delivery {one_line(sent.delivery_id)}" if sent.delivery_id else ""
    return f"{sent.letter_id} replayed to {one_line(sent.queue)}{which}"


@click.command(
    cls=CeleryCommand,
    name="edit",
    epilog=exit_codes(ExitCode.REFUSED, failed="the confirmation was declined"),
)
@click.argument("letter_id", metavar="ID")
@click.argument("changes", metavar="CHANGES")
@yes_option()
@dry_run_option("Print the changes, and replay nothing.")
@audit_options
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
    """Replay a dead letter with some fields changed. CHANGES is a JSON object: '{"cents": 500}'.

    The changed message must fit its model. Prints the changes, and asks for confirmation.
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
    confirm("Replay it with these changes?", f"{letter_id} would be replayed, changed", yes)
    delivery_id = log.edit_and_replay(letter_id, wanted, who=who, why=why)
    sent = ReplayedLetter(letter_id, edit.letter.queue, delivery_id=delivery_id)
    print_result(as_json, {**_document(sent), "diff": edit.diff()}, f"{_describe_replay(sent)}, changed")
