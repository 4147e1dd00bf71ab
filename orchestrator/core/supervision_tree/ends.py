"""Decides what follows the end of a child of a supervision tree: nothing, a restart, or the end of its supervisor."""

from __future__ import annotations

from orchestrator.core.supervision_tree.changes import ROOT, RUNS, Changes, after
from orchestrator.core.supervision_tree.spec import (
    AutoShutdown,
    OnGiveUp,
    ProcessSpec,
    Restart,
    Strategy,
    allowed_ends,
    parent_of,
)
from orchestrator.core.supervision_tree.state import EndKind, HoldMail, Notice, Phase, Purpose, TreeEnded, Verdict


class Ends(Changes):
    """Ends of processes and supervisors, with OTP's rules of restarting."""

    def _process_ended(self, path: str, kind: EndKind) -> None:
        node = self._nodes[path]
        was_stable = node.ready_at is not None and self._now - node.ready_at >= self._process(path).stable_s
        failures = 0 if was_stable else node.failures
        self._set(path, phase=Phase.DOWN, due=None, kill_at=None, ready_at=None, failures=failures)
        if self._is_absorbed(path):
            return
        if node.phase in RUNS:
            self._child_ended(path, kind)
        elif node.purpose is Purpose.FAILED_START:
            self._child_ended(path, EndKind.ABNORMAL)
        else:
            self._set(path, in_turn=False, not_before=self._now)

    def _is_absorbed(self, path: str) -> bool:
        """Whether the end of a child was asked for, so that nothing follows from it."""
        parent = self._nodes[parent_of(path)]
        if self._nodes[path].removing:
            self._forget(path)
            return True
        return parent.phase not in RUNS or path in parent.clear or not self._nodes[path].wanted

    def _supervisor_stopped(self, path: str) -> None:
        purpose = self._nodes[path].purpose
        gave_up = purpose is Purpose.GIVE_UP
        if path == ROOT and (self._stopping or purpose in (Purpose.GIVE_UP, Purpose.AUTO_SHUTDOWN)):
            holds = gave_up and self._spec(path).on_give_up is OnGiveUp.HOLD and not self._stopping
            if not holds:
                self._set(path, phase=Phase.DOWN)
                self._ended = True
                self._do(TreeEnded(int(gave_up)))
                return
        self._set(path, phase=Phase.DOWN, due=None, ready_at=None)
        if path == ROOT and not gave_up:
            self.start(path)
        elif path != ROOT and self._is_absorbed(path):
            return
        elif gave_up and self._spec(path).on_give_up is OnGiveUp.HOLD:
            self._set(path, phase=Phase.ON_HOLD, due=after(self._now, self._spec(path).hold_s))
            self._do(HoldMail(path))
        elif purpose in (Purpose.GIVE_UP, Purpose.AUTO_SHUTDOWN):
            self._child_ended(path, EndKind.NORMAL, Verdict.GAVE_UP if gave_up else Verdict.SHUT_DOWN)
        else:
            self._set(path, in_turn=False, not_before=self._now)

    def _child_ended(self, path: str, kind: EndKind, verdict: Verdict = Verdict.DONE) -> None:
        """A child has ended by itself: restart it, or not. A supervisor ends like a process that ends normally."""
        node, parent = self._nodes[path], parent_of(path)
        if kind in (EndKind.CONFIG, EndKind.DAEMONISED):
            failed = Verdict.CONFIG if kind is EndKind.CONFIG else Verdict.DAEMONISED
            self._set(path, verdict=failed)
            self._do(Notice(path, failed.value))
            if self._spec(parent).strategy is not Strategy.ONE_FOR_ONE:
                self._clear_with(path)
            return
        restart = node.spec.restart
        if restart is Restart.TEMPORARY or (restart is Restart.TRANSIENT and kind is EndKind.NORMAL):
            self._set(path, verdict=verdict)
            self._shut_down_with(path)
            return
        pause_s = 0.0
        if isinstance(node.spec, ProcessSpec):
            pause_s = node.spec.backoff.pause_s(node.failures + 1, self._chance())
        self._set(path, failures=node.failures + 1, restarted=node.restarted + 1, not_before=self._now + pause_s)
        supervisor, spec = self._nodes[parent], self._spec(parent)
        within = tuple(at for at in supervisor.restarts if self._now - at <= spec.period_s)
        self._set(parent, restarts=(*within, self._now))
        allowed = allowed_ends(spec, self._processes_below(parent))
        if supervisor.on_trial or len(within) >= allowed:
            text = f"too many ends: {len(within) + 1} within {spec.period_s:g} s; allowed: {allowed}"
            self._do(Notice(parent, text))
            self._set(parent, phase=Phase.STOPPING, purpose=Purpose.GIVE_UP, clear=frozenset(), on_trial=False)
            return
        if pause_s > 0:
            self._do(Notice(path, f"restarted in {pause_s:.1f} s"))
        if spec.strategy is Strategy.ONE_FOR_ONE:
            self._set(path, in_turn=supervisor.phase is not Phase.READY)
        else:
            self._clear_with(path)

    def _processes_below(self, path: str) -> int:
        node = self._nodes[path]
        if isinstance(node.spec, ProcessSpec):
            return int(not node.removing)
        return sum(self._processes_below(child) for child in node.children)

    def _clear_with(self, path: str) -> None:
        """Have the siblings stopped that go with a child."""
        parent = parent_of(path)
        supervisor = self._nodes[parent]
        first = 0 if self._spec(parent).strategy is Strategy.ONE_FOR_ALL else supervisor.children.index(path)
        self._set(parent, clear=supervisor.clear | frozenset(supervisor.children[first:]))

    def _shut_down_with(self, path: str) -> None:
        """End the supervisor if this child was significant enough."""
        parent = parent_of(path)
        supervisor, spec = self._nodes[parent], self._spec(parent)
        if not self._nodes[path].spec.significant or spec.auto_shutdown is AutoShutdown.NEVER:
            return
        significant = [self._nodes[child] for child in supervisor.children if self._nodes[child].spec.significant]
        if spec.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or all(child.verdict for child in significant):
            self._set(parent, phase=Phase.STOPPING, purpose=Purpose.AUTO_SHUTDOWN, clear=frozenset())
