"""The supervising process: it takes events to the rule of the tree, and does what the rule says."""

from __future__ import annotations

import os
import signal
from collections import deque
from functools import partial
from time import monotonic

from orchestrator.core.plural import counted
from orchestrator.core.supervision_tree.rule import begin, exit_code_if_idle, next_due, not_ready, reduce
from orchestrator.core.supervision_tree.state import (
    Effect,
    Ended,
    EndKind,
    EndProcess,
    Event,
    HoldMail,
    Notice,
    Phase,
    ReleaseMail,
    Shutdown,
    StartProcess,
    State,
    Tick,
    TreeEnded,
    TreeReady,
)
from orchestrator.supervisor import planned_stops, running_workers
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.processes.children import Children
from orchestrator.supervisor.processes.output import Console
from orchestrator.supervisor.processes.proc import adopt_orphans, kill_tree
from orchestrator.supervisor.processes.running import Running
from orchestrator.supervisor.reading.definition import Definition
from orchestrator.supervisor.recorder_link import RecorderLinks, incarnation_of
from orchestrator.supervisor.state_directory import StateDirectory

#: Longest time that the recorders have at the end.
_RECORDING_S = 2.0


class TreeProcess:
    """One tree in one process."""

    def __init__(self, definition: Definition, state: StateDirectory, loop: Loop, console: Console) -> None:
        self.definition = definition
        self.pid = os.getpid()
        self.directory = state
        self.console = console
        self.loop = loop
        self._events: deque[Event] = deque()
        self._exit_code: int | None = None
        self._idle_code = 0
        #: When it began to stop, and the children that ran then.
        self._stopping_since: float | None = None
        self._to_stop: list[Running] = []
        loop.on_error = self._log_error
        adopt_orphans()
        loop.handle_signals(self._on_signals)
        leftovers = kill_tree(str(state.path))
        if leftovers:
            self.say(f"processes of an earlier supervisor killed: {leftovers}")
        planned_stops.withdraw_all(state.path)
        #: Workers that have died with an earlier supervisor.
        self._dead = [(worker, incarnation_of(worker)) for worker in running_workers.take_dead(state.path)]
        self.children = Children(state, loop, console, self.post)
        self.children.define(definition.commands)
        self.state: State = State({})
        #: Recorders of deaths and holds; without them, sweeps find the dead.
        self.recorders = RecorderLinks(str(definition.directory), str(state.path), loop, console, self.children)
        self.children.on_gone = self.recorders.died

    def say(self, text: str) -> None:
        """Write a line of the supervisor's own."""
        self.console.say(text)

    def _log_error(self, error: Exception) -> None:
        """Log what a part of the supervisor has raised; the tree goes on."""
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = f" ({where.tb_frame.f_code.co_qualname}, line {where.tb_lineno})" if where else ""
        self.console.say(f"error in the supervisor: {type(error).__name__}: {error}{at}")

    def post(self, event: Event) -> None:
        """Something has happened. It is seen to in the loop."""
        self._events.append(event)

    def run(self) -> int:
        """Run until the tree has ended; returns the exit code."""
        self.recorders.start(self.definition.apps())
        for worker, incarnation in self._dead:
            self.recorders.died_before(worker, incarnation)
        self.state, effects = begin(self.definition.root, monotonic(), int.from_bytes(os.urandom(3), "big"))
        self._carry_out(effects)
        while True:
            self.take_events()
            if self._exit_code is not None:
                break
            due = next_due(self.state, monotonic())
            self.loop.wait(due)
            if due is not None and due <= monotonic():
                self.post(Tick())
        self._close()
        return self._exit_code

    def end_with(self, descriptor: int) -> None:
        """Kill all when this file is closed at its other end."""

        def kill() -> None:
            for _ in range(3):
                self.post(Shutdown())

        def look() -> None:
            if not os.read(descriptor, 4096):
                self.loop.off(descriptor)
                kill()

        try:
            self.loop.on(descriptor, look)
        except PermissionError:
            # A plain file, or /dev/null: there is no other end.
            kill()

    def take_events(self) -> None:
        """Handle the events that were posted, and those that follow from them."""
        while self._events:
            event = self._events.popleft()
            self.loop.call(partial(self._take, event))
            for path in [path for path in self.children.known if path not in self.state.nodes]:
                self.children.forget(path)
            idle = exit_code_if_idle(self.state, monotonic())
            if idle is not None and not self.state.stopping and not self._events:
                self.say("nothing is left to run")
                self._idle_code = idle
                self.post(Shutdown())

    def _take(self, event: Event) -> None:
        self.state, effects = reduce(self.state, event, monotonic())
        root = self.state.nodes[""]
        if self._stopping_since is None and (self.state.stopping or root.phase is Phase.STOPPING):
            self._stopping_since = monotonic()
            self._to_stop = [one for one in self.children.known.values() if one.pid and one.status is None]
        self._carry_out(effects)

    def _carry_out(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            done = self.loop.call(partial(self._carry_out_one, effect))
            if not done and isinstance(effect, StartProcess):
                # A start that fails in this process would fail again.
                self.post(Ended(effect.path, effect.run, EndKind.CONFIG))

    def _carry_out_one(self, effect: Effect) -> None:
        match effect:
            case StartProcess(path, run):
                self.children.start(path, run)
            case EndProcess(path, run, force):
                self.children.end(path, run, force)
            case HoldMail(path):
                self.say(f"{path}: on hold, and its mail with it, until `orchestrator tree reset {path}`")
                self.recorders.hold(path)
            case ReleaseMail(path):
                self.recorders.release(path)
            case Notice(path, text):
                self.say(f"{path or 'the tree'}: {text}")
            case TreeReady():
                missing = [path or "the tree" for path in not_ready(self.state)]
                self.say(f"started, but for {', '.join(missing)}" if missing else "all are ready")
                _notify_ready()
            case TreeEnded(code):
                self._exit_code = code or self._idle_code

    def _on_signals(self, numbers: set[int]) -> None:
        if signal.SIGCHLD in numbers:
            self.children.reap()
        if numbers & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            self.say("stopping" if not self.state.stopping else "stopping faster")
            self.post(Shutdown())

    def _close_recorders(self) -> None:
        """Let the recorders finish; what takes longer than a moment is left to sweeps."""
        self.recorders.close()
        until = monotonic() + _RECORDING_S
        while self.recorders.pids() and monotonic() < until:
            self.loop.wait(until)

    def _close(self) -> None:
        self._close_recorders()
        # Processes that have escaped until now.
        kill_tree(str(self.directory.path))
        self.children.kill_all()
        self._say_end()
        self.children.lifeline.release()
        self.console.drain()

    def _say_end(self) -> None:
        took_s = monotonic() - self._stopping_since if self._stopping_since is not None else 0.0
        stopped = counted(len(self._to_stop), "process", "processes")
        killed = [one.path for one in self._to_stop if one.status == -signal.SIGKILL]
        forced = f", killed of these: {', '.join(killed)}" if killed else ""
        self.say(f"the tree has ended in {took_s:.1f} s: {stopped} stopped{forced}; exit code {self._exit_code}")


def _notify_ready() -> None:
    """Say so to the service manager that has started this process, if it wants to know (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    import contextlib
    import socket

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(b"READY=1")
