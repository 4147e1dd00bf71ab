"""Changes to a supervision tree: nodes that come and go, processes that are started and stopped."""

from __future__ import annotations

from dataclasses import replace
from math import isinf
from typing import Any, Final

from orchestrator.core.supervision_tree.spec import ChildSpec, ProcessSpec, SupervisorSpec, join, parent_of
from orchestrator.core.supervision_tree.state import (
    Effect,
    EndProcess,
    Force,
    Node,
    Phase,
    Purpose,
    StartProcess,
    State,
)

ROOT: Final = ""

#: Time from SIGTERM to SIGKILL of a process that did not become ready, and of all once a second stop was asked for.
HURRIED_S: Final = 5.0

#: The phases of a child that runs and is not being stopped.
RUNS: Final = (Phase.STARTING, Phase.READY)


class Changes:
    """One event's changes to a copy of the state, and their effects."""

    def __init__(self, state: State, now: float) -> None:
        self._nodes = dict(state.nodes)
        self._now = now
        self._effects: list[Effect] = []
        self._changed = False
        self._seed = state.seed
        self._stopping = state.stopping
        self._rolling = state.rolling
        self._rolling_run = state.rolling_run
        self._ended = state.ended

    def _set(self, path: str, **changes: Any) -> Node:
        node = self._nodes[path]
        changed = replace(node, **changes)
        if changed != node:
            self._nodes[path] = changed
            self._changed = True
        return changed

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _chance(self) -> float:
        self._seed = (self._seed * 1103515245 + 12345) % 2**31
        return self._seed / 2**31

    def _spec(self, path: str) -> SupervisorSpec:
        spec = self._nodes[path].spec
        assert isinstance(spec, SupervisorSpec)  # noqa: S101
        return spec

    def _process(self, path: str) -> ProcessSpec:
        spec = self._nodes[path].spec
        assert isinstance(spec, ProcessSpec)  # noqa: S101
        return spec

    def insert(self, path: str, spec: ChildSpec) -> None:
        """Add the nodes of a part of the tree."""
        children = spec.children if isinstance(spec, SupervisorSpec) else ()
        paths = tuple(join(path, child.id) for child in children)
        self._nodes[path] = Node(spec, children=paths)
        self._changed = True
        for child_path, child in zip(paths, children, strict=True):
            self.insert(child_path, child)

    def _forget(self, path: str) -> None:
        for child in self._nodes[path].children:
            self._forget(child)
        del self._nodes[path]
        parent = self._nodes.get(parent_of(path)) if path else None
        if parent is not None:
            others = tuple(child for child in parent.children if child != path)
            self._set(parent_of(path), children=others, clear=parent.clear - {path})
        self._changed = True

    def start(self, path: str) -> None:
        """Start a process, or a supervisor afresh with all of its children."""
        node = self._nodes[path]
        if isinstance(node.spec, ProcessSpec):
            self._set(
                path, phase=Phase.STARTING, run=node.run + 1, due=after(self._now, node.spec.ready_s), kill_at=None
            )
            self._do(StartProcess(path, node.run + 1))
            return
        self._set(path, phase=Phase.STARTING, due=None, run=node.run + 1, restarts=(), clear=frozenset())
        for child in node.children:
            self._set(child, verdict=None, in_turn=True, was_ready=False)

    def _try(self, path: str) -> None:
        self.start(path)
        self._set(path, on_trial=True)

    def _stop(self, path: str, purpose: Purpose) -> None:
        """Begin to stop a child that runs; one that stops already goes on to."""
        node = self._nodes[path]
        if node.phase not in RUNS:
            return
        if isinstance(node.spec, SupervisorSpec):
            self._set(path, phase=Phase.STOPPING, purpose=purpose, clear=frozenset(), on_trial=False)
            return
        spec = node.spec
        self._set(path, purpose=purpose)
        if spec.shutdown_s <= 0:
            self._kill(path)
            return
        patience_s = min(spec.shutdown_s, HURRIED_S) if purpose is Purpose.FAILED_START else spec.shutdown_s
        kill_at = after(self._now, patience_s)
        quits = 0 < spec.quit_before_s < patience_s and kill_at is not None
        due = kill_at - spec.quit_before_s if quits and kill_at is not None else kill_at
        self._set(path, phase=Phase.STOPPING, due=due, kill_at=kill_at)
        self._do(EndProcess(path, node.run, Force.TERM))

    def _kill(self, path: str) -> None:
        node = self._nodes[path]
        if node.phase is not Phase.KILLING:
            self._set(path, phase=Phase.KILLING, due=None, kill_at=None)
            self._do(EndProcess(path, node.run, Force.KILL))


def after(now: float, seconds: float | None) -> float | None:
    """That much later; ``None`` for never."""
    return None if seconds is None or isinf(seconds) else now + seconds
