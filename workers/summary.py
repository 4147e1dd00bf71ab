"""The table at the end of the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output.printable import one_line
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.migration import FindingKind
from workers.tally import Tally

_SHOWN = 5

_WRITTEN = {
    FindingKind.DELAY: ".delay(",
    FindingKind.APPLY_ASYNC: ".apply_async(",
    FindingKind.SEND_TASK: "send_task(",
    FindingKind.GET_WITHOUT_TIMEOUT: ".get() without a timeout",
}


def summarize(console: Console, tally: Tally, below: Sequence[Path], took_s: float) -> None:
    """Print it. Files are shown without the directories that they lie ``below``."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2, show_edge=False)
    table.add_column("What")
    table.add_column("How many", justify="right")
    table.add_column("That is", overflow="fold")
    for what, how_many, that_is in _rows(tally, below, took_s):
        table.add_row(Text(what), Text(how_many), Text(one_line(that_is)))
    console.print(table)


def _rows(tally: Tally, below: Sequence[Path], took_s: float) -> Iterable[tuple[str, str, str]]:
    row = tally.ledger
    files, unparsable = tally.summary.files, tally.summary.unparsable
    yield "files audited", str(files), f"in {took_s:.1f} s, {files / took_s:.0f} a second"
    if unparsable:
        shown = "; ".join(_without(below, why) for why in unparsable[:_SHOWN])
        yield "  not Python", str(len(unparsable)), _and_more(shown, len(unparsable))
    yield from _findings(tally)
    yield "messages accepted", str(row.accepted), f"handled {row.handled}, dead {row.dead}, pending {row.pending}"
    yield "retries", str(row.retried), "attempts that failed and were made again, after a pause"
    yield "redelivered", str(row.redelivered), "taken back from a worker or pool process that died, and requeued"
    yield (
        "executed again",
        str(tally.duplicated),
        "begun once more: a death cut the execution short, or came before its outcome had left",
    )
    yield from _deaths(tally)
    reasons = Counter(letter.reason for letter in tally.letters).most_common()
    yield "dead letters", str(len(tally.letters)), ", ".join(f"{reason}: {count}" for reason, count in reasons)
    for letter in tally.letters[:_SHOWN]:
        yield f"  {letter.reason}", "", f"{_named(letter, below)}: {_why(letter)}"
    if len(tally.letters) > _SHOWN:
        yield "  and more", str(len(tally.letters) - _SHOWN), "of the same reasons or others"


def _findings(tally: Tally) -> Iterable[tuple[str, str, str]]:
    found = tally.summary.found
    yield "unsupervised sends", str(sum(one.certain + one.possible for one in found)), "calls that nobody watches"
    for one in found:
        certainty = f"certainly Celery's {one.certain}, possibly {one.possible}"
        yield f"  {_WRITTEN[one.kind]}", str(one.certain + one.possible), certainty


def _deaths(tally: Tally) -> Iterable[tuple[str, str, str]]:
    yield (
        "kills",
        str(tally.kills),
        f"{tally.workers_killed} of a worker, declared dead; {tally.pool_kills} of a pool process, blamed on a message",
    )
    kill, recovered = tally.kill, tally.recovery
    if kill is not None and recovered is not None:
        when = f"{recovered.initial_s:.2f} to {recovered.last_s:.2f} s after its SIGKILL"
        yield (
            f"  {kill.name}'s work elsewhere",
            f"{recovered.last_s:.2f} s",
            f"of {len(kill.held)} messages that {kill.incarnation} held, {recovered.messages} began elsewhere, {when}",
        )


def _named(letter: DeadLetter, below: Sequence[Path]) -> str:
    try:
        path = letter.body()[0][0]["path"]
    except (TypeError, LookupError):
        path = None
    # The path of an item is in the list that the workflow has found.
    return _without(below, path) if isinstance(path, str) else f"{letter.message} {letter.delivery_id}"


def _why(letter: DeadLetter) -> str:
    times = f"{letter.attempts} attempts" if not letter.deaths else f"{len(letter.deaths)} deaths"
    return f"{letter.error_type}: {letter.error_message} ({times})"


def _without(directories: Sequence[Path], text: str) -> str:
    for directory in directories:
        text = text.replace(f"{directory}/", "")
    return text


def _and_more(shown: str, count: int) -> str:
    return f"{shown} ... and {count - _SHOWN} more" if count > _SHOWN else shown
