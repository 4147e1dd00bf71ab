"""The processes of a tree: started, signalled, and seen out with all that they leave."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic, time

from orchestrator.core.supervision_tree.state import Ended, EndKind, Event, Force
from orchestrator.health import files
from orchestrator.supervisor import planned_stops, running_workers
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.processes.lifeline import Lifeline
from orchestrator.supervisor.processes.oom import OomKill, OomKills
from orchestrator.supervisor.processes.output import ChildOutput, Console
from orchestrator.supervisor.processes.proc import (
    born,
    descendants,
    group_exists,
    group_of,
    is_between_programs,
    is_listened_at,
    kill_child,
    kill_children,
    kill_group,
    kill_if,
    others_in_group,
    own_children,
    session_of,
    shown_variable_of,
    variable_of,
)
from orchestrator.supervisor.processes.readiness import Readiness
from orchestrator.supervisor.processes.running import End, Running, kind_of, text_of
from orchestrator.supervisor.processes.spawn import spawn
from orchestrator.supervisor.reading.definition import Command, Kind
from orchestrator.supervisor.reading.kinds import QUIET
from orchestrator.supervisor.reading.variables import BEAT_VARIABLE, CHILD_VARIABLE, TREE_VARIABLE
from orchestrator.supervisor.state_directory import StateDirectory

#: Between two looks at a group that has been killed, where the kernel does not say that it has ended.
_GONE_LOOK_S = 0.02

#: After the last start, processes are looked for that neither their group nor their environment shows to be a child's.
_ESCAPED_LOOKS_S = (1.0, 10.0, 60.0)

#: Errors after which a start may succeed later; any other means that the program cannot be run.
_TRANSIENT = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY, errno.EADDRINUSE)

#: Kinds whose port on loopback must be free when they start.
_LISTEN_AT_LOOPBACK = (Kind.REDIS, Kind.FLOWER)

#: Celery's warning of seven lines at each start of a worker as root.
_NOT_OF_ROOT = "ignore:You're running the worker with superuser privileges"

_SIGNALS = {Force.TERM: signal.SIGTERM, Force.QUIT: signal.SIGQUIT}


class Children:
    """All processes of one tree."""

    def __init__(self, state: StateDirectory, loop: Loop, console: Console, post: Callable[[Event], None]) -> None:
        self._state = state
        self._loop = loop
        self._console = console
        self._post = post
        self._commands: dict[str, Command] = {}
        self._by_pid: dict[int, Running] = {}
        #: Whose process has ended while others of its group, or orphans of it, may be there still.
        self._leaving: list[Running] = []
        self._looks_again = False
        self._oom = OomKills()
        self._look_number = 0
        #: Children that were started before this process became the supervisor; none of the tree's.
        self._inherited = {pid: born(pid) for pid in own_children()}
        self.lifeline = Lifeline(str(state.path))
        self.lifeline.start(())
        self.known: dict[str, Running] = {}
        #: Called when a child has ended, with all of its group, before anything else follows from it.
        self.on_gone: Callable[[Running, End, int], None] = lambda *_: None
        #: Other processes of the supervisor's own; called with their exit status.
        self.others: dict[int, Callable[[int], None]] = {}
        self.readiness = Readiness(loop, console, post, self.others, self._environment)

    def define(self, commands: Mapping[str, Command]) -> None:
        """Learn how further children are run."""
        self._commands.update(commands)

    def command_of(self, path: str) -> Command:
        """How a child is run."""
        return self._commands[path]

    @property
    def commands(self) -> Mapping[str, Command]:
        """How each child is run."""
        return self._commands

    def forget(self, path: str) -> None:
        """A child was removed."""
        running = self.known.pop(path, None)
        if running is not None:
            running.output.close()
        self._commands.pop(path, None)

    # -- start

    def start(self, path: str, run: int) -> None:
        """Start a child's process; an event says what becomes of it."""
        command = self._commands[path]
        running = self.known.get(path)
        if running is None:
            running = self.known[path] = Running(path, command, ChildOutput(path, self._console))
        running.command = command
        running.run, running.status, running.asked, running.daemonised = run, None, False, False
        running.output.began()
        environment = self._environment(path, run, command)
        environment |= self.readiness.begin(path, command, self._state.path)
        try:
            os.makedirs(command.directory, exist_ok=True) if command.kind is Kind.REDIS else None  # noqa: PTH103
            if command.kind in _LISTEN_AT_LOOPBACK and is_listened_at(command.port):
                # A probe would take the other server for the child, and report it ready.
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), f"127.0.0.1:{command.port}")
            spawned = spawn(command.arguments, environment, command.directory)
        except OSError as error:
            self.readiness.end(path)
            running.pid = 0
            kind = EndKind.ABNORMAL if error.errno in _TRANSIENT else EndKind.CONFIG
            end = running.note_end(kind, f"not started: {error.strerror}: {error.filename or command.directory}")
            self._console.say(f"{path}: {end.text}")
            self._post(Ended(path, run, kind))
            return
        running.pid, running.pipe = spawned.pid, spawned.output
        running.born = born(spawned.pid)
        running.started_s, running.started_monotonic_s = time(), monotonic()
        self._by_pid[spawned.pid] = running
        if command.kind is Kind.WORKER:
            own = {name: value for name, value in command.environment.items() if name in files.DIRECTORY_VARIABLES}
            worker = running_workers.RunningWorker(
                spawned.pid, running.born, running.started_s, command.app, command.node, own
            )
            running_workers.add(self._state.path, worker)
        self.lifeline.add(spawned.pid)
        self._oom.began(spawned.pid)
        self._loop.on(running.pipe, lambda: self._read(running))
        self.readiness.watch(running)
        self._look_for_escaped(_ESCAPED_LOOKS_S)

    def _environment(self, path: str, run: int, command: Command) -> dict[str, str]:
        environment = {
            "PYTHONUNBUFFERED": "1",
            **os.environ,
            **command.environment,
            TREE_VARIABLE: str(self._state.path),
            CHILD_VARIABLE: f"{path}#{run}",
            BEAT_VARIABLE: next((path for path, one in self._commands.items() if one.kind is Kind.BEAT), ""),
        }
        if QUIET in command.arguments and command.kind is Kind.WORKER:
            # The supervisor itself has warned of root, once.
            own = environment.get("PYTHONWARNINGS", "")
            environment["PYTHONWARNINGS"] = f"{own},{_NOT_OF_ROOT}" if own else _NOT_OF_ROOT
        return environment

    def _read(self, running: Running) -> None:
        if not running.output.read(running.pipe):
            self._close_pipe(running)

    def _close_pipe(self, running: Running) -> None:
        if running.pipe >= 0:
            self._loop.off(running.pipe)
            os.close(running.pipe)
            running.pipe = -1

    # -- end

    def end(self, path: str, run: int, force: Force) -> None:
        """Send a signal: to the process, or SIGKILL to its group."""
        running = self.known.get(path)
        if running is None or running.run != run or running.status is not None or not running.pid:
            return
        running.asked = True
        if force is Force.KILL:
            kill_group(running.pid)
        else:
            planned_stops.announce(self._state.path, running.pid)
            with suppress(ProcessLookupError):
                os.kill(running.pid, _SIGNALS[force])

    def reap(self) -> None:
        """See to all processes that have ended."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            running = self._by_pid.pop(found.si_pid, None)
            if running is not None:
                self._process_ended(running)
            elif found.si_pid == self.lifeline.pid:
                os.waitpid(found.si_pid, 0)
                self.lifeline.start(self._by_pid)
            else:
                _, status = os.waitpid(found.si_pid, 0)
                on_end = self.others.pop(found.si_pid, None)
                if on_end is not None:
                    on_end(os.waitstatus_to_exitcode(status))
        self._see_out()

    def _process_ended(self, running: Running) -> None:
        pid = running.pid
        # The process is a zombie still, so its id and its group's cannot be another's.
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        clean = found is not None and found.si_code == os.CLD_EXITED and found.si_status == 0
        if clean and not running.asked and not running.command.may_leave_children:
            running.daemonised = others_in_group(pid) or bool(self._orphans_of(running))
        kill_group(pid)
        self.lifeline.remove(pid)
        if running.asked:
            planned_stops.withdraw(self._state.path, pid)
        _, status = os.waitpid(pid, 0)
        running.status = os.waitstatus_to_exitcode(status)
        self.readiness.end(running.path)
        if running.pipe >= 0:
            running.output.drain(running.pipe)
            self._close_pipe(running)
        self._leaving.append(running)

    def _orphans_of(self, running: Running) -> list[int]:
        """Descendants of a child that have a session of their own, and whose parent has ended."""
        return [pid for pid, mark in self._marks_beside(running).items() if mark == _mark_of(running)]

    def _marks_beside(self, running: Running) -> dict[int, str | None]:
        """Whose the supervisor's further children are; ``None`` while one is within ``execve``."""
        known = {*self._by_pid, *self.others, self.lifeline.pid, running.pid}
        return {pid: shown_variable_of(pid, CHILD_VARIABLE) for pid in own_children() if pid not in known}

    def _is_accounted_for(self, pid: int) -> bool:
        """Whether a child of the supervisor is known by its id, session or environment, or was inherited."""
        known = {*self._by_pid, *self.others, self.lifeline.pid}
        if pid in known or session_of(pid) in known:
            return True
        if pid in self._inherited and self._inherited[pid] == born(pid):
            return True
        marks = {"", *map(_mark_of, (*self._by_pid.values(), *self._leaving))}
        return variable_of(pid, TREE_VARIABLE) == str(self._state.path) and variable_of(pid, CHILD_VARIABLE) in marks

    def _kill_hidden_orphans(self) -> bool:
        """Kill orphans that hide whose they were, if they can be those of a child that has ended.

        They have a session of their own and another environment, so all that is known is that nobody else has them.

        Returns:
            Whether there are any, or may be: of a process within ``execve`` that is not known yet.
        """
        since = min((one.born or 0 for one in self._leaving), default=0)
        candidates = [pid for pid in own_children() if (born(pid) or 0) >= since]
        # One that is about to run another program does not show now whose it is.
        within_exec = {pid for pid in candidates if is_between_programs(pid)}
        hidden = [pid for pid in candidates if not self._is_accounted_for(pid)]
        shown = [pid for pid in hidden if pid not in within_exec and not is_between_programs(pid)]
        # One may have been within an `execve` that began and ended between the two looks.
        killed = [kill_child(pid) for pid in shown if not self._is_accounted_for(pid)]
        return any(killed) or len(killed) < len(hidden)

    def kill_all(self) -> None:
        """Kill whatever is left of the tree at its end."""

        def is_spared(pid: int) -> bool:
            return pid == self.lifeline.pid or (pid in self._inherited and self._inherited[pid] == born(pid))

        kill_children(is_spared)

    def _look_for_escaped(self, pauses: tuple[float, ...]) -> None:
        """Name to the lifeline those that it would not find."""
        self._look_number += 1
        number = self._look_number

        def look() -> None:
            if number == self._look_number:
                self.lifeline.escaped(self._escaped())
                if pauses[1:]:
                    self._look_for_escaped(pauses[1:])

        self._loop.after(pauses[0], look)

    def _escaped(self) -> dict[int, int]:
        groups = {*self._by_pid, *self.others, self.lifeline.pid}
        roots = {*own_children()} - {pid for pid, began in self._inherited.items() if born(pid) == began}
        below = {**descendants(roots), **{pid: group for pid in roots - groups if (group := group_of(pid))}}
        mark = str(self._state.path)
        outside = [
            pid for pid, group in below.items() if group not in groups and variable_of(pid, TREE_VARIABLE) != mark
        ]
        return {pid: began for pid in outside if (began := born(pid)) is not None}

    def _see_out(self) -> None:
        """Kill what ended processes have left, and report those of which nothing is left."""
        hidden = bool(self._leaving) and self._kill_hidden_orphans()
        for running in tuple(self._leaving):
            mark = _mark_of(running)
            # Or they may be: those within `execve`.
            orphans = [pid for pid, shown in self._marks_beside(running).items() if shown in (mark, None)]
            for pid in orphans:
                kill_if(pid, partial(_has_mark, mark))
            if not orphans and not hidden and not group_exists(running.pid):
                self._leaving.remove(running)
                self._gone(running)
        if self._leaving and not self._looks_again:
            self._looks_again = True
            self._loop.after(_GONE_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        self.reap()

    def _gone(self, running: Running) -> None:
        status = running.status or 0
        kind = kind_of(status, running.command, daemonised=running.daemonised)
        may_be_oom = status == -signal.SIGKILL and not running.asked
        oom = self._oom.has_killed(running.pid) if may_be_oom else OomKill.NO
        text = text_of(status, oom)
        if running.daemonised:
            text = "ended while others of its processes ran on; it must stay in the foreground"
        end = running.note_end(kind, text, oom)
        self.on_gone(running, end, status)
        if running.command.kind is Kind.WORKER:
            running_workers.remove(self._state.path, running.pid)
        if not running.asked:
            self._console.say(f"{running.path}: process {running.pid} has ended: {text}")
        self._post(Ended(running.path, running.run, kind))


def _mark_of(running: Running) -> str:
    return f"{running.path}#{running.run}"


def _has_mark(mark: str, pid: int) -> bool:
    return variable_of(pid, CHILD_VARIABLE) == mark
