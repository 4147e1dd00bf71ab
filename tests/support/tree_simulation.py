"""Processes that exist on paper: they become ready and end as a test says, and the tree's effects are carried out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.supervision_tree.rule import begin, next_due, reduce
from orchestrator.core.supervision_tree.spec import Backoff, ProcessSpec, Strategy, SupervisorSpec
from orchestrator.core.supervision_tree.state import (
    Effect,
    Ended,
    EndKind,
    EndProcess,
    Event,
    Force,
    HoldMail,
    Node,
    Notice,
    Ready,
    ReleaseMail,
    StartProcess,
    State,
    Tick,
    TreeEnded,
    TreeReady,
)

#: Restarts without a pause, as in OTP.
AT_ONCE = Backoff(first_s=0.0, jitter=0.0)


def process(name: str, restart: str = "permanent", **options) -> ProcessSpec:
    """A process that restarts without a pause."""
    return ProcessSpec(name, restart=type(ProcessSpec("").restart)(restart), **{"backoff": AT_ONCE, **options})


#: The children of a tree that names none.
ABC = ("a", "b", "c")


def tree(
    strategy: str = "one_for_one",
    *children: ProcessSpec | SupervisorSpec,
    intensity: int = 3,
    period_s: float = 60.0,
    **options: Any,
) -> SupervisorSpec:
    """A supervisor of some processes."""
    return SupervisorSpec(
        children=children or tuple(process(name) for name in ABC),
        strategy=Strategy(strategy),
        intensity=intensity,
        period_s=period_s,
        **options,
    )


def starts(*names: str) -> list[str]:
    """What the log has of their starts."""
    return [f"start {name}" for name in names]


def terms(*names: str) -> list[str]:
    """What the log has of their SIGTERMs."""
    return [f"SIGTERM {name}" for name in names]


@dataclass
class Simulation:
    """A tree with processes that obey, but for those that a test names."""

    spec: SupervisorSpec
    never_ready: set[str] = field(default_factory=set)
    ignores_term: set[str] = field(default_factory=set)
    #: Number of starts that fail, and how.
    failing: dict[str, int] = field(default_factory=dict)
    failure: EndKind = EndKind.ABNORMAL
    #: Whether processes answer at once; else ``answer`` makes them.
    obedient: bool = True
    now: float = 0.0
    log: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)
    waiting: deque[Event] = field(default_factory=deque)
    exit_code: int | None = None
    ready: bool = False

    def __post_init__(self) -> None:
        self.state, effects = begin(self.spec, self.now)
        self._carry_out(effects)
        self._answer_all()

    def send(self, event: Event) -> None:
        """Let something happen, and what follows from it at once."""
        self._take(event)
        self._answer_all()

    def die(self, path: str, kind: EndKind = EndKind.ABNORMAL) -> None:
        """A process ends."""
        self.log.clear()
        run = self.live.pop(path)
        self.send(Ended(path, run, kind))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and all that is due in it happen."""
        until = self.now + seconds
        while (due := next_due(self.state, self.now)) is not None and due <= until:
            self.now = max(self.now, due)
            self.send(Tick())
        self.now = until

    def answer(self, number: int) -> None:
        """One of the processes does what it was asked for."""
        event = self.waiting[number % len(self.waiting)]
        self.waiting.remove(event)
        self._happen(event)

    def node(self, path: str) -> Node:
        """A child's node."""
        return self.state.nodes[path]

    @property
    def known(self) -> State:
        """The tree's state."""
        return self.state

    def _answer_all(self) -> None:
        while self.obedient and self.waiting:
            self._happen(self.waiting.popleft())

    def _happen(self, event: Event) -> None:
        if isinstance(event, Ended):
            if self.live.get(event.path) != event.run:
                return
            del self.live[event.path]
        self._take(event)

    def _take(self, event: Event) -> None:
        self.state, effects = reduce(self.state, event, self.now)
        self._carry_out(effects)

    def _carry_out(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case StartProcess(path, run):
                    self._start(path, run)
                case EndProcess(path, run, force):
                    assert self.live.get(path) == run
                    self.log.append(f"{force.value} {path}")
                    if force is Force.KILL or path not in self.ignores_term:
                        self.waiting.append(Ended(path, run, EndKind.NORMAL))
                case HoldMail(path):
                    self.log.append(f"hold {path}")
                case ReleaseMail(path):
                    self.log.append(f"release {path}")
                case Notice(path, text):
                    self.notices.append(f"{path}: {text}")
                case TreeReady():
                    assert not self.ready
                    self.ready = True
                case TreeEnded(code):
                    assert not self.live
                    self.exit_code = code

    def _start(self, path: str, run: int) -> None:
        assert path not in self.live, f"{path} is started twice"
        self.log.append(f"start {path}")
        self.live[path] = run
        if self.failing.get(path, 0) > 0:
            self.failing[path] -= 1
            self.waiting.append(Ended(path, run, self.failure))
        elif path not in self.never_ready:
            self.waiting.append(Ready(path, run))
