"""OTP's supervisor as a few recursive functions, for processes that start and stop in no time."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.core.supervision_tree.spec import ProcessSpec, Restart, Strategy, SupervisorSpec, allowed_ends, join


@dataclass
class Child:
    spec: ProcessSpec | SupervisorSpec
    path: str
    parent: Child | None
    children: list[Child] = field(default_factory=list)
    alive: bool = False
    gone: bool = False
    ends: list[float] = field(default_factory=list)


class NaiveTree:
    """One tree, and what was done in it."""

    def __init__(self, spec: SupervisorSpec) -> None:
        self.log: list[str] = []
        self.now = 0.0
        self.exit_code: int | None = None
        self.by_path: dict[str, Child] = {}
        self.root = self._make(spec, "", None)
        self._start(self.root)

    def _make(self, spec, path, parent) -> Child:
        child = self.by_path[path] = Child(spec, path, parent)
        if isinstance(spec, SupervisorSpec):
            child.children = [self._make(one, join(path, one.id), child) for one in spec.children]
        return child

    def living(self) -> list[str]:
        return [c.path for c in self.by_path.values() if c.alive and isinstance(c.spec, ProcessSpec)]

    def _start(self, child: Child) -> None:
        child.alive = True
        if isinstance(child.spec, ProcessSpec):
            self.log.append(f"start {child.path}")
            return
        child.ends = []
        for one in child.children:
            one.gone = False
            self._start(one)

    def _stop(self, child: Child) -> None:
        if not child.alive:
            return
        for one in reversed(child.children):
            self._stop(one)
        if isinstance(child.spec, ProcessSpec):
            self.log.append(f"SIGTERM {child.path}")
        child.alive = False

    def die(self, path: str, normally: bool) -> None:
        child = self.by_path[path]
        child.alive = False
        self._ended(child, normally)

    def _ended(self, child: Child, normally: bool) -> None:
        supervisor = child.parent
        if supervisor is None:
            self.exit_code = 0 if normally else 1
            return
        spec = supervisor.spec
        assert isinstance(spec, SupervisorSpec)
        # A supervisor ends with `shutdown`, which counts as normal.
        normally = normally or isinstance(child.spec, SupervisorSpec)
        restart = child.spec.restart
        if restart is Restart.TEMPORARY or (restart is Restart.TRANSIENT and normally):
            child.gone = True
            important = [one for one in supervisor.children if one.spec.significant]
            all_gone = all(one.gone for one in important)
            if child.spec.significant and (
                spec.auto_shutdown == "any_significant" or (spec.auto_shutdown == "all_significant" and all_gone)
            ):
                self._stop(supervisor)
                self._ended(supervisor, True)
            return
        supervisor.ends = [at for at in supervisor.ends if self.now - at <= spec.period_s] + [self.now]
        if len(supervisor.ends) > allowed_ends(spec):
            self._stop(supervisor)
            self._ended(supervisor, False)
            return
        at = supervisor.children.index(child)
        with_it = {
            Strategy.ONE_FOR_ONE: [child],
            Strategy.ONE_FOR_ALL: supervisor.children,
            Strategy.REST_FOR_ONE: supervisor.children[at:],
        }[spec.strategy]
        for one in reversed(with_it):
            self._stop(one)
            one.gone = one.spec.restart is Restart.TEMPORARY
        for one in with_it:
            if not one.gone:
                self._start(one)
