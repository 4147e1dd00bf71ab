"""One child's process: its run, its probe, and how earlier runs have ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from time import time

from orchestrator.core.supervision_tree.state import EndKind
from orchestrator.supervisor.processes.oom import OomKill
from orchestrator.supervisor.processes.output import ChildOutput
from orchestrator.supervisor.reading.definition import Command, Kind

#: Ends of a child that are kept.
_KEPT_ENDS = 20

#: Characters of each of a run's last lines that are kept with its end.
_LONGEST_WORDS = 400

#: Exit codes of a shell and of `env` for a program that is not there, or cannot be executed.
_NOT_EXECUTED = (126, 127)

#: Exit code of a Celery command that cannot run with its settings.
_BAD_SETTINGS = 2
_OF_CELERY = (Kind.WORKER, Kind.BEAT, Kind.FLOWER)


@dataclass(frozen=True, slots=True)
class End:
    """How one run has ended."""

    at_s: float
    pid: int
    text: str
    kind: EndKind
    asked_for: bool
    last_words: tuple[str, ...] = ()
    oom: OomKill = OomKill.NO


@dataclass(slots=True)
class Running:
    """A child that has a process, or has had one."""

    path: str
    command: Command
    output: ChildOutput
    run: int = 0
    pid: int = 0
    #: The kernel's start time of the process, which with its id names it for ever.
    born: int | None = None
    #: When it was started: in seconds since the epoch, for the record; and by the monotonic clock, for durations.
    started_s: float = 0.0
    started_monotonic_s: float = 0.0
    pipe: int = -1
    #: Set once the process has ended; its group may have members then.
    status: int | None = None
    #: Signals that were sent to it on purpose.
    asked: bool = False
    daemonised: bool = False
    ends: tuple[End, ...] = ()
    #: What the death recorder has said of its incarnations.
    deaths: tuple[dict[str, object], ...] = ()

    def note_end(self, kind: EndKind, text: str, oom: OomKill = OomKill.NO) -> End:
        """Keep how a run has ended."""
        words = () if self.asked else tuple(word[:_LONGEST_WORDS] for word in self.output.last_words())
        end = End(time(), self.pid, text, kind, self.asked, words, oom)
        self.ends = (*self.ends, end)[-_KEPT_ENDS:]
        return end

    def note_death(self, death: dict[str, object]) -> None:
        """Keep what the death recorder says of an incarnation."""
        self.deaths = (*self.deaths, death)[-_KEPT_ENDS:]


def kind_of(status: int, command: Command, *, daemonised: bool) -> EndKind:
    """How a process has ended; the status is negative if a signal has ended it."""
    if daemonised:
        return EndKind.DAEMONISED
    if status == 0:
        return EndKind.NORMAL
    if status in _NOT_EXECUTED or (status == _BAD_SETTINGS and command.kind in _OF_CELERY):
        return EndKind.CONFIG
    return EndKind.ABNORMAL


def text_of(status: int, oom: OomKill) -> str:
    """An exit code or a signal in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"{name}{_OOM[oom]}"


_OOM = {
    OomKill.NO: "",
    OomKill.PERHAPS: ", perhaps by the OOM killer: the control group counted a kill",
    OomKill.YES: " by the OOM killer",
}
