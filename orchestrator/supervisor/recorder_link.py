"""The supervisor's end of its death recorders: one process for each Celery app, which it can do without.

What a recorder has not answered is sent again to the next one after it has ended: each request may be done twice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from selectors import EVENT_WRITE
from time import monotonic
from typing import Any

from orchestrator.health import files
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.processes.children import Children
from orchestrator.supervisor.processes.oom import OomKill
from orchestrator.supervisor.processes.output import ChildOutput, Console
from orchestrator.supervisor.processes.proc import kill_group
from orchestrator.supervisor.processes.running import End, Running
from orchestrator.supervisor.processes.spawn import spawn
from orchestrator.supervisor.reading.definition import Kind
from orchestrator.supervisor.reading.variables import CHILD_VARIABLE, TREE_VARIABLE
from orchestrator.supervisor.running_workers import RunningWorker

#: Requests that wait for a recorder, at most; the oldest goes first, and the sweep does its work.
_MAX_WAITING = 1000

#: Pauses before a recorder that has ended is started again.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

#: Its exit code if it has nothing to do.
_NOTHING_TO_DO = 3

_MODULE = "orchestrator.cli.death_recorder"


class _Recorder:
    """One app's recorder."""

    def __init__(self, app: str, directory: str, tree: str, loop: Loop, console: Console, children: Children) -> None:
        self.app = app
        self._directory = directory
        self._tree = tree
        self._loop = loop
        self._children = children
        self._output = ChildOutput("death recorder", console, with_time=True)
        self._numbers = count(1)
        self._unanswered: dict[int, tuple[bytes, Running | None, int]] = {}
        self._unsent = b""
        self._pid = 0
        self._pipe = -1
        self._replies = -1
        self._reply = b""
        self._pause_s = _FIRST_PAUSE_S
        self._began = 0.0
        self._closed = False
        self._start()

    def send(self, request: dict[str, Any], running: Running | None = None) -> None:
        """Have something recorded."""
        number = next(self._numbers)
        line = json.dumps({**request, "number": number}).encode() + b"\n"
        if len(self._unanswered) >= _MAX_WAITING:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[number] = line, running, running.pid if running else 0
        self._unsent += line
        self._write()

    def _start(self) -> None:
        if self._closed:
            return
        reader, self._pipe = os.pipe()
        self._replies, writer = os.pipe()
        for descriptor in (self._pipe, self._replies):
            os.set_blocking(descriptor, False)
        environment = {**os.environ, TREE_VARIABLE: self._tree, CHILD_VARIABLE: ""}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))
        try:
            arguments = (sys.executable, "-m", _MODULE, self.app)
            spawned = spawn(arguments, environment, self._directory, stdin=reader, stdout=writer)
        except OSError as error:
            self._output.say(f"not started: {error}")
            self._ended(1)
            return
        finally:
            os.close(reader)
            os.close(writer)
        self._pid, self._began = spawned.pid, monotonic()
        self._children.others[spawned.pid] = self._ended
        self._children.lifeline.add(spawned.pid)
        output = spawned.output
        self._loop.on(output, lambda: self._read_log(output))
        self._loop.on(self._replies, self._read_replies)
        self._unsent = b"".join(line for line, _, _ in self._unanswered.values())
        self._write()

    def _read_log(self, output: int) -> None:
        if not self._output.read(output):
            self._loop.off(output)
            os.close(output)

    def _write(self) -> None:
        if self._pipe < 0 or not self._unsent:
            return
        try:
            sent = os.write(self._pipe, self._unsent[:65536])
        except BlockingIOError:
            sent = 0
        except OSError:
            # It has ended; the next one is sent everything that it has not answered.
            self._unsent = b""
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._loop.on(self._pipe, self._write, EVENT_WRITE)
        else:
            self._loop.off(self._pipe)

    def _read_replies(self) -> None:
        with suppress(BlockingIOError):
            received = os.read(self._replies, 65536)
            if not received:
                self._loop.off(self._replies)
                return
            *lines, self._reply = (self._reply + received).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, answer: dict[str, Any]) -> None:
        _, running, pid = self._unanswered.pop(answer["number"], (b"", None, 0))
        self._pause_s = _FIRST_PAUSE_S
        for death in answer.get("deaths", ()):
            if running is not None and "reason" in death:
                running.note_death({**death, "pid": pid})
                mail = "" if death["requeued"] is None else f"; messages requeued: {death['requeued']}"
                self._output.say(f"{death['incarnation']} fenced ({death['reason']}){mail}")
        for name in ("on_hold", "released"):
            if answer.get(name):
                self._output.say(
                    f"mailboxes {'on hold' if name == 'on_hold' else 'released'}: {', '.join(answer[name])}"
                )

    def _ended(self, status: int) -> None:
        if self._pid:
            kill_group(self._pid)
            self._children.lifeline.remove(self._pid)
        self._pid = 0
        self._close_pipes()
        if status == _NOTHING_TO_DO:
            self._children.readiness.apps_without_health.add(self.app)
        if status == _NOTHING_TO_DO or self._closed:
            self._closed = True
            self._unanswered.clear()
            return
        if monotonic() - self._began > _LONGEST_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
        self._loop.after(self._pause_s, self._start)
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    def _close_pipes(self) -> None:
        for descriptor in (self._pipe, self._replies):
            if descriptor >= 0:
                self._loop.off(descriptor)
                os.close(descriptor)
        self._pipe = self._replies = -1
        self._reply = b""

    def close(self) -> None:
        """Close its standard input: it ends when it has recorded what it was sent."""
        self._closed = True
        if self._pipe >= 0:
            self._loop.off(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    @property
    def pid(self) -> int:
        """Its process, or 0."""
        return self._pid


class RecorderLinks:
    """The recorders of all apps of a tree."""

    def __init__(self, directory: str, tree: str, loop: Loop, console: Console, children: Children) -> None:
        self._make: Callable[[str], _Recorder] = lambda app: _Recorder(app, directory, tree, loop, console, children)
        self._children = children
        self._by_app: dict[str, _Recorder] = {}

    def start(self, apps: Sequence[str]) -> None:
        """Start the recorders of these apps, which connect to Redis."""
        for app in apps:
            self._of(app).send({"operation": "connect"})

    def _of(self, app: str) -> _Recorder:
        if app not in self._by_app:
            self._by_app[app] = self._make(app)
        return self._by_app[app]

    def pids(self) -> list[int]:
        """Their processes."""
        return [recorder.pid for recorder in self._by_app.values() if recorder.pid]

    def died(self, running: Running, end: End, status: int) -> None:
        """Have a worker's death recorded."""
        command = running.command
        incarnation = incarnation_of(running)
        if command.kind is not Kind.WORKER and not incarnation:
            return
        app = command.app or next(iter(self._by_app), "")
        if not app:
            return
        if status < 0:
            reason = "oom" if end.oom is OomKill.YES else "killed"
        else:
            # A worker that leaves by itself has ended its incarnation (drained). One that is still registered, or was
            # found dead, was ended by what it ran, also if its exit code is 0: that must count against the message.
            reason = "deployed" if status == 0 and end.asked_for else "crashed"
        # The last lines of a killed process do not show why it was killed.
        words = f": {end.last_words[-1]}" if end.last_words and status >= 0 else ""
        request = {
            "operation": "died",
            "pid": running.pid,
            "node": command.node,
            "incarnation": incarnation,
            "started_s": running.started_s,
            "reason": reason,
            "error": f"{end.text}{words}",
            "saw_end": True,
        }
        self._of(app).send(request, running)

    def died_before(self, worker: RunningWorker, incarnation: str) -> None:
        """Have the death of a worker recorded that has ended with an earlier supervisor."""
        request = {
            "operation": "died",
            "pid": worker.pid,
            "node": worker.node,
            "incarnation": incarnation,
            "started_s": worker.started_s,
            "reason": "killed",
            "error": "its supervisor was killed",
            # It may have ended before that supervisor, and its death be on record with the true reason.
            "saw_end": False,
        }
        if worker.app in self._by_app:
            self._of(worker.app).send(request)

    def hold(self, path: str) -> None:
        """Put the mailboxes of the workers below a supervisor on hold."""
        self._for_mailboxes("hold", path)

    def release(self, path: str) -> None:
        """End their hold."""
        self._for_mailboxes("release", path)

    def _for_mailboxes(self, operation: str, path: str) -> None:
        for child, command in self._children.commands.items():
            if command.kind is Kind.WORKER and (not path or child.startswith(f"{path}/")):
                request = {"operation": operation, "queues": list(command.queues), "node": command.node}
                self._of(command.app).send(request)

    def close(self) -> None:
        """End them."""
        for recorder in self._by_app.values():
            recorder.close()


def incarnation_of(running: Running | RunningWorker) -> str:
    """The incarnation in the last health file of a process; empty if it has none."""
    own = running.command.environment if isinstance(running, Running) else running.environment
    with suppress(OSError, files.UntrustedDirectory):
        for folder in files.directories({**os.environ, **own}):
            vitals = files.last_of(folder, running.pid, running.born)
            if vitals is not None:
                return str(vitals.get("incarnation") or "")
    return ""
