"""The state of a supervision tree, what can happen to it, and what is to be done then. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.supervision_tree.spec import ChildSpec


class Phase(StrEnum):
    """The state of a child."""

    #: It does not run: it was stopped, has ended for good, waits for its turn, or for a pause to pass.
    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    #: SIGKILL was sent to its group.
    KILLING = "killing"
    #: A supervisor that has reached its intensity, and waits to be reset.
    ON_HOLD = "on hold"


class Purpose(StrEnum):
    """The reason why a child is stopped, and so what comes next."""

    #: Its supervisor stops, or an operator has asked for it.
    STOP = "stop"
    #: It is started again when it has stopped: a sibling's restart, or an operator's.
    RESTART = "restart"
    FAILED_START = "failed start"
    GIVE_UP = "give up"
    AUTO_SHUTDOWN = "auto shutdown"


class EndKind(StrEnum):
    """The end of a process."""

    NORMAL = "normal"
    ABNORMAL = "abnormal"
    #: It cannot be started as it is configured; a restart would not help.
    CONFIG = "config"
    #: It went to the background, out of its supervisor's hands.
    DAEMONISED = "daemonised"


class Verdict(StrEnum):
    """The reason why a child is not started again."""

    DONE = "done"
    CONFIG = "failed: config"
    DAEMONISED = "failed: daemonised"
    #: A supervisor that has reached its intensity, or shut down by itself, and is not restarted.
    GAVE_UP = "failed: too many restarts"
    SHUT_DOWN = "shut down"

    @property
    def is_failure(self) -> bool:
        """Whether it has not ended as it should."""
        return self not in (Verdict.DONE, Verdict.SHUT_DOWN)

    @property
    def needs_operator(self) -> bool:
        """Whether no restart would help, of itself or of a sibling."""
        return self in (Verdict.CONFIG, Verdict.DAEMONISED)


@dataclass(frozen=True, slots=True)
class Node:
    """One child, a process or a supervisor; the root is one too."""

    spec: ChildSpec
    phase: Phase = Phase.DOWN
    #: Whether an operator lets it run.
    wanted: bool = True
    #: Set if it is not to be started again.
    verdict: Verdict | None = None
    #: Whether it starts only when the siblings before it are ready; false after a restart of this child alone.
    in_turn: bool = True
    #: Whether it has been ready since its supervisor was started.
    was_ready: bool = False
    #: Not to be started before.
    not_before: float = 0.0
    #: When the present phase ends: not ready in time, SIGQUIT, SIGKILL, the end of a hold.
    due: float | None = None
    kill_at: float | None = None
    purpose: Purpose = Purpose.STOP
    #: Counts starts. An event of an earlier run is ignored.
    run: int = 0
    #: Ends in a row that were not asked for.
    failures: int = 0
    ready_at: float | None = None
    #: All ends that led to a restart.
    restarted: int = 0
    removing: bool = False

    #: Of a supervisor: paths of its children, when restarts were counted, and whom to stop before anything is started.
    children: tuple[str, ...] = ()
    restarts: tuple[float, ...] = ()
    clear: frozenset[str] = frozenset()
    #: Of a supervisor whose mail is on hold: its children are started, and the mail released when all are ready.
    on_trial: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, or a supervisor with children to see to."""
        return self.phase not in (Phase.DOWN, Phase.ON_HOLD)


@dataclass(frozen=True, slots=True)
class State:
    """A tree: its nodes by path; the root's path is empty."""

    nodes: Mapping[str, Node]
    #: Of the jitter.
    seed: int = 0
    #: 0; 1: the tree stops; 2: all at once; 3: by SIGKILL.
    stopping: int = 0
    #: Processes still to be restarted one by one, and the run that the first had when its turn came.
    rolling: tuple[str, ...] = ()
    rolling_run: int | None = None
    ended: bool = False


# -- events


@dataclass(frozen=True, slots=True)
class Ready:
    """A process does its work."""

    path: str
    run: int


@dataclass(frozen=True, slots=True)
class Extended:
    """A process is not ready, and cannot help it (Redis is away): it has its time from now on."""

    path: str
    run: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A process has ended, and all of its group; or it could not be started."""

    path: str
    run: int
    kind: EndKind = EndKind.ABNORMAL


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """An operator stops a child."""

    path: str


@dataclass(frozen=True, slots=True)
class Start:
    """An operator starts a child that is stopped or has ended, or resets a supervisor."""

    path: str


@dataclass(frozen=True, slots=True)
class RestartChild:
    """An operator restarts a child."""

    path: str


@dataclass(frozen=True, slots=True)
class Roll:
    """An operator restarts processes one by one, each when the one before is ready again."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Add:
    """A further child of a supervisor."""

    parent: str
    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class Remove:
    """A child is stopped and forgotten."""

    path: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The whole tree stops. A second one hurries, a third one kills."""


Event = Ready | Extended | Ended | Tick | Stop | Start | RestartChild | Roll | Add | Remove | Shutdown


# -- effects


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Start it; ``Ready`` or ``Ended`` follows."""

    path: str
    run: int


class Force(StrEnum):
    """The signal by which a process is asked to end."""

    TERM = "SIGTERM"
    QUIT = "SIGQUIT"
    #: To the whole group.
    KILL = "SIGKILL"


@dataclass(frozen=True, slots=True)
class EndProcess:
    """Send a signal; ``Ended`` follows, at the latest after ``Force.KILL``."""

    path: str
    run: int
    force: Force


@dataclass(frozen=True, slots=True)
class HoldMail:
    """Keep the mail of the workers below a supervisor from being claimed."""

    path: str


@dataclass(frozen=True, slots=True)
class ReleaseMail:
    """Let it be claimed."""

    path: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the log, as an operator wants to read it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class TreeReady:
    """All children have become ready; one that has died since may not be ready again."""


@dataclass(frozen=True, slots=True)
class TreeEnded:
    """Nothing runs any more."""

    exit_code: int


Effect = StartProcess | EndProcess | HoldMail | ReleaseMail | Notice | TreeReady | TreeEnded
