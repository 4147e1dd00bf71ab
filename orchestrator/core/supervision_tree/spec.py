"""The specs of a supervision tree: supervisors and processes, in OTP's words. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

#: The length of a supervisor's shutdown: as long as its children need.
INFINITY = inf

#: No time to shut down: the group is killed at once.
KILL = 0.0

#: Without an ``intensity``: the ends that are allowed of each process below a supervisor.
_ENDS_OF_A_PROCESS = 3

#: Without an ``intensity``, at least: one child that always fails ends 9 times in 60 s with the default pauses.
_LEAST_ENDS = 9

#: Without an ``intensity``, with ``OnGiveUp.HOLD``: fewer ends than a message may survive (``max_deaths``, default 3).
HOLD_INTENSITY = 1

#: Between the parts of a path: ``agents/billing``.
SEPARATOR = "/"


class Restart(StrEnum):
    """The condition on which a child that has ended is started again."""

    PERMANENT = "permanent"
    #: Only after an abnormal end.
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(StrEnum):
    """The siblings that are restarted with a child."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class AutoShutdown(StrEnum):
    """Whether a supervisor ends when significant children have ended."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class OnGiveUp(StrEnum):
    """The action of a supervisor that has reached its intensity, after its children were stopped."""

    #: It ends, and its parent decides.
    ESCALATE = "escalate"
    #: It stays, without children, and the mail of its workers waits until it is reset.
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between restarts: none before the first, then from ``first_s``, doubled each time, up to ``cap_s``."""

    first_s: float = 0.5
    cap_s: float = 30.0
    #: The share by which a pause is shortened or lengthened at random.
    jitter: float = 0.2

    def pause_s(self, failures: int, chance: float) -> float:
        """The pause before the restart after this many failures in a row; ``chance`` is from 0 to 1."""
        if failures <= 1:
            return 0.0
        # Beyond 2 ** 30 every pause is capped.
        pause_s = min(self.cap_s, self.first_s * 2.0 ** min(failures - 2, 30))
        return pause_s * (1 + self.jitter * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process."""

    id: str
    restart: Restart = Restart.PERMANENT
    significant: bool = False
    #: Seconds from SIGTERM to SIGKILL; ``INFINITY``, or ``KILL``.
    shutdown_s: float = 30.0
    #: SIGQUIT is sent this long before SIGKILL; 0 for never.
    quit_before_s: float = 0.0
    #: A process that is not ready after this time has failed.
    ready_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    #: Siblings of one group, one after the other, are copies of each other: they do not wait for each other's turn.
    group: str = ""
    #: Failures are forgotten once the process has been ready for this long.
    stable_s: float = 60.0


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """A supervisor."""

    id: str = ""
    children: tuple[ChildSpec, ...] = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    #: The ends of children within ``period_s`` that it restarts, at most; ``None``: see ``allowed_ends``.
    intensity: int | None = None
    period_s: float = 60.0
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    on_give_up: OnGiveUp = OnGiveUp.ESCALATE
    restart: Restart = Restart.PERMANENT
    significant: bool = False
    #: With ``OnGiveUp.HOLD``: seconds after which the children are started again, on trial. ``None``: never.
    hold_s: float | None = None


ChildSpec = ProcessSpec | SupervisorSpec


def join(parent: str, child_id: str) -> str:
    """The path of a child. The root's is empty."""
    return f"{parent}{SEPARATOR}{child_id}" if parent else child_id


def parent_of(path: str) -> str:
    """The path of a child's supervisor."""
    return path.rpartition(SEPARATOR)[0]


def walk(spec: ChildSpec, path: str = "") -> Iterator[tuple[str, ChildSpec]]:
    """Each part of a tree with its path, parents first, in the order of the children."""
    yield path, spec
    if isinstance(spec, SupervisorSpec):
        for child in spec.children:
            yield from walk(child, join(path, child.id))


def allowed_ends(spec: SupervisorSpec, processes: int | None = None) -> int:
    """The intensity of a supervisor; ``processes`` is the number of processes below it, if it has changed.

    Faults of different processes, and one child that always fails, must not add up to the end of all of them.
    """
    if spec.intensity is not None:
        return spec.intensity
    if spec.on_give_up is OnGiveUp.HOLD:
        return HOLD_INTENSITY
    if processes is None:
        processes = sum(isinstance(part, ProcessSpec) for _, part in walk(spec))
    return max(_LEAST_ENDS, _ENDS_OF_A_PROCESS * processes)
