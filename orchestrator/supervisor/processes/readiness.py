"""Finds out when a tree's processes are ready: asks them, or waits until they say so."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.supervision_tree.state import Event, Extended, Ready
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.processes.output import Console
from orchestrator.supervisor.processes.probes import Answer, NotifySocket, Question, health, interval_s
from orchestrator.supervisor.processes.proc import kill_group
from orchestrator.supervisor.processes.running import Running
from orchestrator.supervisor.processes.spawn import spawn
from orchestrator.supervisor.reading.definition import Command, ProbeKind

#: The variables of a child's run: by its path, the number of the run, and its command.
EnvironmentOf = Callable[[str, int, Command], Mapping[str, str]]


@dataclass(slots=True)
class _Probing:
    """The open files and sockets by which a process shows that it is ready."""

    notify: NotifySocket | None = None
    question: Question | None = None
    #: A command that is asked.
    pid: int = 0
    pipe: int = -1


class Readiness:
    """The probes of one tree's processes.

    ``others`` are processes of the supervisor's own: what is called when they end.
    """

    def __init__(
        self,
        loop: Loop,
        console: Console,
        post: Callable[[Event], None],
        others: dict[int, Callable[[int], None]],
        environment_of: EnvironmentOf,
    ) -> None:
        self._loop = loop
        self._console = console
        self._post = post
        self._others = others
        self._environment_of = environment_of
        self._probing: dict[str, _Probing] = {}
        #: Apps whose workers have no incarnation, so that `health` would never be answered: those without an
        #: Orchestrator, or with another broker than Redis.
        self.apps_without_health: set[str] = set()

    def begin(self, path: str, command: Command, directory: Path) -> dict[str, str]:
        """Open what a process is to answer to, before it starts; returns the variables that name it."""
        probing = self._probing[path] = _Probing()
        if command.probe.kind is not ProbeKind.NOTIFY:
            return {}
        probing.notify = NotifySocket(directory, f"notify-{len(self._probing)}-{path.replace('/', '.')}"[:70])
        return {"NOTIFY_SOCKET": probing.notify.address}

    def watch(self, running: Running) -> None:
        """Find out when a process that has just started is ready; an event says so."""
        probe, probing = running.command.probe, self._probing[running.path]
        run = running.run
        if probe.kind is ProbeKind.NONE:
            self._answered(running, run, Answer.READY)
        elif probing.notify is not None:
            notify = probing.notify
            self._loop.on(notify.socket, lambda: self._answered(running, run, notify.read()))
        else:
            self._look(running, run)

    def _look(self, running: Running, run: int) -> None:
        probing = self._probing.get(running.path)
        if probing is None or running.run != run or running.status is not None:
            return
        probe = running.command.probe
        if probe.kind is ProbeKind.HEALTH:
            knows = running.command.app not in self.apps_without_health
            environment = self._environment_of(running.path, run, running.command)
            self._answered(running, run, health(running.pid, environment) if knows else Answer.READY)
        elif probe.kind is ProbeKind.EXEC:
            self._run_probe(running, run, probing)
        else:
            question = probing.question = Question(probe)
            self._loop.on(question.socket, lambda: self._ask(running, run, question), question.events)

    def _ask(self, running: Running, run: int, question: Question) -> None:
        before = question.events
        answer = question.go_on()
        if answer is None:
            if question.events != before:
                self._loop.on(question.socket, lambda: self._ask(running, run, question), question.events)
            return
        self._close_question(running.path)
        self._answered(running, run, answer)

    def _run_probe(self, running: Running, run: int, probing: _Probing) -> None:
        environment = self._environment_of(running.path, run, running.command)
        try:
            spawned = spawn(running.command.probe.command, environment, running.command.directory)
        except OSError as error:
            self._console.say(f"{running.path}: ready_command: {error}")
            self._answered(running, run, Answer.NO)
            return
        os.close(spawned.output)
        probing.pid = spawned.pid

        def ended(status: int) -> None:
            kill_group(spawned.pid)
            self._answered(running, run, Answer.READY if status == 0 else Answer.NO)

        self._others[spawned.pid] = ended

    def _answered(self, running: Running, run: int, answer: Answer) -> None:
        if running.run != run or running.path not in self._probing:
            return
        if answer is Answer.READY:
            self.end(running.path)
            self._post(Ready(running.path, run))
            return
        if answer is Answer.WAITS:
            self._post(Extended(running.path, run))
        every_s = interval_s(running.command.probe)
        if every_s is not None:
            self._loop.after(every_s, lambda: self._look(running, run))

    def _close_question(self, path: str) -> None:
        probing = self._probing.get(path)
        if probing is not None and probing.question is not None:
            self._loop.off(probing.question.socket)
            probing.question.close()
            probing.question = None

    def end(self, path: str) -> None:
        """A process is ready, or has ended: nothing more is to be found out."""
        self._close_question(path)
        probing = self._probing.pop(path, None)
        if probing is None:
            return
        if probing.notify is not None:
            self._loop.off(probing.notify.socket)
            probing.notify.close()
        if probing.pid in self._others:
            kill_group(probing.pid)
