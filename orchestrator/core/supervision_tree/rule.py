"""The rule of the supervision tree: ``(state, event, now) → (state, effects)``, with the semantics of OTP's supervisor.

It differs from OTP where a process is not a function call. A child counts as started when it is ready; a start that
fails is counted like a death, and tried again. Restarts pause. A child that cannot run as it is configured is not
restarted. What an operator has stopped stays stopped. Time is any clock that only goes forward.
"""

from __future__ import annotations

from orchestrator.core.supervision_tree.changes import HURRIED_S, ROOT, RUNS, after
from orchestrator.core.supervision_tree.ends import Ends
from orchestrator.core.supervision_tree.spec import (
    ChildSpec,
    OnGiveUp,
    ProcessSpec,
    Restart,
    Strategy,
    SupervisorSpec,
    join,
    parent_of,
)
from orchestrator.core.supervision_tree.state import (
    Add,
    Effect,
    Ended,
    EndProcess,
    Event,
    Extended,
    Force,
    Node,
    Notice,
    Phase,
    Purpose,
    Ready,
    ReleaseMail,
    Remove,
    RestartChild,
    Roll,
    Shutdown,
    Start,
    State,
    Stop,
    Tick,
    TreeReady,
    Verdict,
)


def begin(spec: SupervisorSpec, now: float, seed: int = 0) -> tuple[State, tuple[Effect, ...]]:
    """Start a tree; ``seed`` is of the jitter."""
    step = _Step(State({}, seed), now)
    step.insert(ROOT, spec)
    step.start(ROOT)
    return step.result()


def reduce(state: State, event: Event, now: float) -> tuple[State, tuple[Effect, ...]]:
    """The tree's next state, and the effects to carry out, in order. An event that no longer applies does nothing."""
    if state.ended:
        return state, ()
    step = _Step(state, now)
    step.take(event)
    return step.result()


def next_due(state: State, now: float) -> float | None:
    """The time when ``Tick`` is due."""
    if state.ended:
        return None
    times = [node.due for node in state.nodes.values() if node.due is not None]
    times += [node.not_before for node in state.nodes.values() if node.phase is Phase.DOWN and node.not_before > now]
    return min(times, default=None)


def exit_code_if_idle(state: State, now: float) -> int | None:
    """The exit code of a tree in which nothing runs and nothing will, unless somebody comes; ``None`` of any other.

    OTP's supervisors stay, whatever becomes of their children. A deployment without a process should end.
    """
    nodes = [node for path, node in state.nodes.items() if path]
    verdicts = [node.verdict for node in nodes if node.verdict is not None]
    leaves = [node for node in nodes if isinstance(node.spec, ProcessSpec)]
    waits = any(node.phase is Phase.ON_HOLD or not node.wanted or node.not_before > now for node in nodes)
    stops = any(node.phase is Phase.STOPPING for node in state.nodes.values())
    if waits or stops or not verdicts or any(leaf.is_alive for leaf in leaves):
        return None
    return int(any(verdict.is_failure for verdict in verdicts))


def not_ready(state: State) -> list[str]:
    """Paths of the children of a started tree that are not ready: failed, on hold, or being restarted."""

    def is_missing(path: str, node: Node) -> bool:
        if node.verdict is not None:
            return node.verdict.is_failure
        is_process = isinstance(node.spec, ProcessSpec) and state.nodes[parent_of(path)].phase in RUNS
        return node.phase is Phase.ON_HOLD or (is_process and node.wanted and node.phase is not Phase.READY)

    return [path for path, node in state.nodes.items() if is_missing(path, node)]


class _Step(Ends):
    """One event's work on a copy of the state."""

    def result(self) -> tuple[State, tuple[Effect, ...]]:
        """Let everything follow that follows."""
        self._settle()
        while not self._ended and self._roll_on():
            self._settle()
        rolling = (self._rolling, self._rolling_run)
        return State(self._nodes, self._seed, self._stopping, *rolling, self._ended), tuple(self._effects)

    def _settle(self) -> None:
        self._changed = True
        while self._changed and not self._ended:
            self._changed = False
            self._see_to(ROOT)

    # -- events

    def take(self, event: Event) -> None:
        match event:
            case Tick():
                for path in list(self._nodes):
                    self._pass_time(path)
            case Ready(path, run):
                if self._is_run(path, run) and self._nodes[path].phase is Phase.STARTING:
                    self._set(path, phase=Phase.READY, due=None, ready_at=self._now, was_ready=True)
            case Extended(path, run):
                if self._is_run(path, run) and self._nodes[path].phase is Phase.STARTING:
                    self._set(path, due=after(self._now, self._process(path).ready_s))
            case Ended(path, run, kind):
                if self._is_run(path, run):
                    self._process_ended(path, kind)
            case Shutdown():
                self._shut_down()
            case Add(parent, spec):
                self._add(parent, spec)
            case Roll(paths):
                self._rolling, self._rolling_run = paths, None
            case Stop(path) | Start(path) | RestartChild(path) | Remove(path):
                if path in self._nodes and not self._stopping:
                    self._operate(event, path)

    def _is_run(self, path: str, run: int) -> bool:
        node = self._nodes.get(path)
        return node is not None and node.run == run and node.is_alive and isinstance(node.spec, ProcessSpec)

    def _operate(self, event: Stop | Start | RestartChild | Remove, path: str) -> None:
        node = self._nodes[path]
        if isinstance(event, Stop):
            self._set(path, wanted=False)
            if node.phase is Phase.ON_HOLD:
                self._set(path, phase=Phase.DOWN, due=None)
            self._stop(path, Purpose.STOP)
        elif isinstance(event, Remove):
            self._set(path, wanted=False, removing=True)
            if node.is_alive:
                self._stop(path, Purpose.STOP)
            else:
                self._forget(path)
        elif isinstance(event, Start) or not node.is_alive:
            self._reset(path)
        else:
            self._set(path, wanted=True, failures=0, purpose=Purpose.RESTART)
            self._stop(path, Purpose.RESTART)

    def _reset(self, path: str) -> None:
        """Forget what an operator has done, and what has failed, in this part of the tree."""
        node = self._set(path, wanted=True, verdict=None, failures=0, not_before=self._now, in_turn=False, restarts=())
        if node.phase is Phase.STOPPING:
            self._set(path, purpose=Purpose.RESTART)
        for child in node.children:
            self._reset(child)
        if node.phase is Phase.ON_HOLD:
            self._try(path)

    def _shut_down(self) -> None:
        self._stopping = min(3, self._stopping + 1)
        root = self._nodes[ROOT]
        self._set(ROOT, wanted=False)
        if root.phase is not Phase.STOPPING:
            self._set(ROOT, phase=Phase.STOPPING, purpose=Purpose.STOP, due=None, clear=frozenset())
        for path, node in list(self._nodes.items()):
            if self._stopping == 1 or not node.is_alive or not isinstance(node.spec, ProcessSpec):
                continue
            if self._stopping == 3:
                self._kill(path)
            elif node.phase is not Phase.KILLING:
                self._stop(path, Purpose.STOP)
                hurried = min(node.kill_at or self._now + HURRIED_S, self._now + HURRIED_S)
                if node.spec.quit_before_s > 0 and self._nodes[path].phase is Phase.STOPPING:
                    self._do(EndProcess(path, node.run, Force.QUIT))
                if self._nodes[path].phase is Phase.STOPPING:
                    self._set(path, due=hurried, kill_at=hurried)

    def _add(self, parent: str, spec: ChildSpec) -> None:
        path = join(parent, spec.id)
        former = self._nodes.get(path)
        if former is not None and former.removing and isinstance(spec, ProcessSpec) and not self._stopping:
            # It is being stopped for good, and is wanted again.
            self._set(path, spec=spec, removing=False, wanted=True, verdict=None, purpose=Purpose.RESTART)
            return
        if (
            path in self._nodes
            or self._stopping
            or not isinstance(self._nodes.get(parent, _NOBODY).spec, SupervisorSpec)
        ):
            return
        self.insert(path, spec)
        supervisor = self._nodes[parent]
        self._set(path, in_turn=supervisor.phase is not Phase.READY)
        self._set(parent, children=(*supervisor.children, path))

    def _pass_time(self, path: str) -> None:
        node = self._nodes[path]
        if node.due is None or node.due > self._now:
            return
        if node.phase is Phase.ON_HOLD:
            self._set(path, due=None)
            if not self._stopping and (path == ROOT or self._nodes[parent_of(path)].phase in RUNS):
                self._try(path)
        elif node.phase is Phase.STARTING:
            self._do(Notice(path, f"not ready within {self._process(path).ready_s:g} s"))
            self._stop(path, Purpose.FAILED_START)
        elif node.kill_at is not None and node.kill_at <= self._now:
            self._kill(path)
        else:
            self._do(EndProcess(path, node.run, Force.QUIT))
            self._set(path, due=node.kill_at)

    # -- what follows

    def _see_to(self, path: str) -> None:
        """Bring a supervisor's children nearer to what they should be."""
        for child in self._nodes[path].children:
            if child in self._nodes and isinstance(self._nodes[child].spec, SupervisorSpec):
                self._see_to(child)
        node = self._nodes.get(path)
        if node is None:
            return
        if node.phase is Phase.STOPPING:
            if not self._stop_last(node.children):
                self._supervisor_stopped(path)
        elif node.phase in RUNS:
            if node.clear:
                if self._stop_last(tuple(child for child in node.children if child in node.clear)):
                    return
                self._cleared(path)
            self._start_children(path)

    def _stop_last(self, children: tuple[str, ...]) -> bool:
        """Stop the last of the children that live; whether there is one."""
        alive = [child for child in children if self._nodes[child].is_alive]
        for child in alive if self._stopping > 1 else alive[-1:]:
            self._stop(child, Purpose.STOP)
        return bool(alive)

    def _cleared(self, path: str) -> None:
        for child in self._nodes[path].clear:
            node = self._set(child, in_turn=True)
            if node.spec.restart is Restart.TEMPORARY:
                if node.verdict is None and node.run:
                    self._set(child, verdict=Verdict.DONE)
            elif node.verdict is not None and not node.verdict.needs_operator:
                self._set(child, verdict=None)
        self._set(path, clear=frozenset())

    def _start_children(self, path: str) -> None:
        earlier_are_ready = others_are_ready = True
        group = ""
        for child in self._nodes[path].children:
            node = self._nodes[child]
            of = node.spec.group if isinstance(node.spec, ProcessSpec) else ""
            if not of or of != group:
                group, others_are_ready = of, earlier_are_ready
            is_due = node.phase is Phase.DOWN and node.wanted and node.verdict is None and self._now >= node.not_before
            if is_due and (others_are_ready or not node.in_turn):
                self.start(child)
            earlier_are_ready = earlier_are_ready and self._lets_pass(path, child)
        if earlier_are_ready and self._nodes[path].phase is Phase.STARTING:
            self._supervisor_ready(path)

    def _lets_pass(self, path: str, child: str) -> bool:
        """Whether the siblings after this child may start without waiting for it.

        As in OTP, where a supervisor handles a death only after all children were started, a child that was ready once
        is not waited for again. With the other strategies its death stops them, and all start in order again.
        """
        node, strategy = self._nodes[child], self._spec(path).strategy
        if node.was_ready and strategy is Strategy.ONE_FOR_ONE:
            return True
        if node.phase is Phase.ON_HOLD or (node.verdict is not None and node.verdict.needs_operator):
            return strategy is Strategy.ONE_FOR_ONE
        if node.phase is Phase.DOWN:
            return not node.wanted or node.verdict is not None
        return node.phase is Phase.READY

    def _supervisor_ready(self, path: str) -> None:
        spec = self._spec(path)
        if spec.on_give_up is OnGiveUp.HOLD:
            self._do(ReleaseMail(path))
        self._set(path, phase=Phase.READY, ready_at=self._now, was_ready=True, on_trial=False)
        if path == ROOT:
            self._do(TreeReady())

    # -- rolling restarts

    def _roll_on(self) -> bool:
        """Restart the next process; whether anything was done."""
        if not self._rolling:
            return False
        path = self._rolling[0]
        node, branch = self._nodes.get(path), self._branch_of(path)
        if self._stopping or any(map(_waits_for_operator, branch)):
            self._do(Notice(path, "the rolling restart has ended here"))
            self._rolling, self._rolling_run = (), None
            return True
        if node is None or not all(one.wanted and one.verdict is None for one in branch):
            self._rolling, self._rolling_run = self._rolling[1:], None
            return True
        if node.phase is not Phase.READY:
            return False
        if self._rolling_run is None:
            self._rolling_run = node.run
            self._operate(RestartChild(path), path)
            return True
        if node.run > self._rolling_run:
            self._rolling, self._rolling_run = self._rolling[1:], None
            return True
        return False

    def _branch_of(self, path: str) -> list[Node]:
        """A child and the supervisors above it: if one of them is stopped, on hold or has failed, it does not start."""
        branch = [self._nodes.get(path, _NOBODY)]
        while path != ROOT:
            path = parent_of(path)
            branch.append(self._nodes.get(path, _NOBODY))
        return branch


def _waits_for_operator(node: Node) -> bool:
    return node.phase is Phase.ON_HOLD or (node.verdict is not None and node.verdict.is_failure)


#: In place of a parent that is not there.
_NOBODY = Node(ProcessSpec(""))
