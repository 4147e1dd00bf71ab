"""Monitors of eager mode: in this process' memory, with no Redis. An agent dies only when a test declares it dead."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from celery import Celery

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.checks.choices import check_bool
from orchestrator.core.clock import now_ms
from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.deliveries.down import NOPROC, Down
from orchestrator.core.errors import NoOwner, OwnerGone
from orchestrator.monitors.entry import MonitorEntries, MonitorStats, Record, stats_of, write_tag
from orchestrator.monitors.envelope import DOWN
from orchestrator.monitors.in_memory_session import InMemorySession
from orchestrator.monitors.leak import Leak, LeakKind, Leaks
from orchestrator.monitors.monitors import Monitors, Target, checked_ref, name_of
from orchestrator.monitors.origin import OriginRecorder
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.worker.execution.owner import Owner, attempt_here, owner_here
from orchestrator.worker.execution.running_attempt import RunningAttempt, innermost

#: The host part of an incarnation's id; eager mode has no processes.
_NODE = "eager"

#: The incarnation that runs the tasks of no agent.
_TASKS = f"celery@{_NODE}#1"


class InMemoryMonitors(Monitors):
    """Each declared agent has one living incarnation until :meth:`declare_dead` ends it."""

    def __init__(
        self, app: Celery, send: Callable[[OutgoingMessage], Any], agents: Callable[[], Mapping[str, AgentSpec]]
    ) -> None:
        super().__init__(app)
        self._send = send
        self._agents = agents
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._records: dict[int, Record] = {}
        self._lives: dict[str, int] = {}
        self._dead: set[str] = set()
        self._sessions: dict[str, InMemorySession] = {}
        self._flushed: set[int] = set()
        self._counts: dict[str, int] = {}
        self._origin_recorder = OriginRecorder("on")
        self._places: dict[str, str] = {}
        #: Called with the id and the reason when an incarnation or a session ends.
        self.on_end: list[Callable[[str, str], object]] = []

    # -- liveness

    def incarnation(self, agent: str) -> str:
        """The id of an agent's current incarnation; :meth:`revive` begins the next one."""
        return f"{agent}@{_NODE}#{self._lives.get(agent, 1)}"

    def living(self) -> set[str]:
        """Ids of the living incarnations and open sessions."""
        agents = (self.incarnation(name) for name in self._agents() if name not in self._dead)
        return {*agents, *self._sessions, _TASKS}

    def is_dead(self, agent: str) -> bool:
        """Whether an agent was declared dead, and not revived since."""
        return agent in self._dead

    def declare_dead(self, target: Target, reason: str = "killed") -> None:
        """Declare an agent (or an incarnation, by id) dead; DOWNs are delivered before this returns.

        Until :meth:`revive` it is down: calls and sends with ``when_down="error"`` raise ``AgentDown``, and
        discoveries, distributions and broadcasts leave it out. Other messages to it are handled all the same.
        """
        name = name_of(target)
        agent = name.split("@", 1)[0] if "#" in name else name
        with self._lock:
            gone = self.incarnation(agent)
            if name not in (agent, gone) or agent in self._dead:
                return
            self._dead.add(agent)
            self._clean_owner(gone)
            ended = [r for r in self._records.values() if gone in r.incarnations]
            for record in ended:
                del self._records[record.ref]
        self._count("target_died", len(ended))
        for callback in self.on_end:
            callback(gone, reason)
        for record in sorted(ended, key=lambda r: r.ref):
            self._deliver_down(record, reason)
        if ended:
            emit(events.UNMONITORED, {"count": len(ended)}, who=gone, why="target died")

    def revive(self, target: Target) -> None:
        """Bring a dead agent back as a new incarnation."""
        name = name_of(target)
        with self._lock:
            if name in self._dead:
                self._dead.discard(name)
                self._lives[name] = self._lives.get(name, 1) + 1

    def _clean_owner(self, owner: str) -> None:
        mine = [r.ref for r in self._records.values() if r.owner == owner]
        for ref in mine:
            del self._records[ref]
        self._count("owner_died", len(mine))
        if mine:
            emit(events.UNMONITORED, {"count": len(mine)}, who=owner, why="owner died")

    # -- Monitors

    def owner_here(self) -> Owner:
        """As in Redis; the owner of a handler is the agent's present incarnation."""
        owner = self._attempt_here()
        if owner is None:
            return owner_here()
        if not owner.agent:
            raise NoOwner
        return owner

    def attempt_here(self, what: str) -> Owner:
        """The owner of a lease, or ``what`` else, that is acquired here: the attempt of a message, or the session.

        Raises:
            NoOwner: no session is open and no message is handled here.
        """
        return self._attempt_here() or attempt_here(what)

    def _attempt_here(self) -> Owner | None:
        """The attempt that runs here inline."""
        here = innermost()
        if not isinstance(here, RunningAttempt) or here.has_ended or own_field(here.request, INCARNATION):
            return None
        if here.is_inherited():
            return None
        agent = here.task.name.rpartition(".")[0]
        known = self.incarnation(agent) if agent in self._agents() else _TASKS
        delivery = str(here.request.id)
        return Owner(known, "" if known == _TASKS else agent, f"{delivery}-{here.request.retries}", delivery)

    def _create(self, owner: Owner, wanted: Sequence[tuple[str, str]]) -> list[int]:
        refs = []
        for target, tag in wanted:
            with self._lock:
                alive = self.living()
                if owner.id not in alive:
                    raise OwnerGone(owner.id)
                origin = self._origin_recorder.capture()
                self._places[origin.name] = origin.text
                incarnation = target if "#" in target else self.incarnation(target)
                record = Record(
                    *(next(self._numbers), owner.id, owner.agent, now_ms(), tag, origin.name, target, (incarnation,))
                )
                self._count("created", 1)
                if incarnation in alive:
                    self._records[record.ref] = record
                else:
                    self._count("target_died", 1)
            if incarnation not in alive:
                self._deliver_down(record, NOPROC)
            refs.append(record.ref)
        if refs:
            emit(events.MONITORED, {"count": len(refs)}, owner=owner.id)
        return refs

    def _deliver_down(self, record: Record, reason: str) -> None:
        down = Down(record.ref, record.target, reason, json.loads(record.tag_json), record.owner)
        self._count("downs", 1)
        emit(events.DOWN, {"count": 1}, target=record.target, reason=reason)
        session = self._sessions.get(record.owner)
        spec = self._agents().get(record.agent)
        if session is not None:
            session.put(down)
        elif spec is not None:
            fields = {name: getattr(down, name) for name in ("ref", "target", "reason", "tag", "owner")}
            supervision = spec.untracked(DOWN)
            self._send(OutgoingMessage(f"down-{down.ref}", spec.down_task, [fields], supervision, queue=spec.queue))

    def demonitor(self, ref: int, *, flush: bool = True) -> bool:
        """End a monitor."""
        check_bool("flush", flush)
        number = checked_ref(ref)
        with self._lock:
            record = self._records.pop(number, None)
            if record is None:
                if flush:
                    self._flushed.add(number)
                return False
        self._count("manual", 1)
        emit(events.UNMONITORED, {"count": 1}, who=record.owner, why="removed")
        return True

    def is_flushed(self, ref: int) -> bool:
        """Whether the DOWN of a monitor must not be delivered any more."""
        return ref in self._flushed

    def session(self) -> InMemorySession:
        """A session."""
        return InMemorySession(self)

    def add_session(self, session: InMemorySession) -> str:
        """Register a session; returns its id."""
        with self._lock:
            name = f"session@{_NODE}#{next(self._numbers)}"
            self._sessions[name] = session
            return name

    def remove_session(self, name: str) -> None:
        """Remove a session and its monitors."""
        with self._lock:
            if self._sessions.pop(name, None) is None:
                return
            self._clean_owner(name)
        for callback in self.on_end:
            callback(name, DeathReason.DRAINED.value)

    def list(
        self, *, owner: str | None = None, target: str | None = None, tag: Any = ..., limit: int = 1000
    ) -> MonitorEntries:
        """Monitors, oldest first."""
        wanted = None if tag is ... else write_tag(tag)
        with self._lock:
            alive, at_ms = self.living(), now_ms()
            found = [
                record.entry(at_ms, self._places, alive)
                for record in self._records.values()
                if (owner is None or owner in (record.owner, record.agent))
                and (target is None or target == record.target or target in record.incarnations)
                and (wanted is None or wanted == record.tag_json)
            ]
        return found[:limit]

    def stats(self) -> MonitorStats:
        """Numbers of monitors."""
        with self._lock:
            return stats_of(len(self._records), self._counts)

    def find_leaks(self, age_s: float | None = None) -> Leaks:
        """Old monitors and duplicates; other leaks cannot occur in memory."""
        firsts: dict[tuple[str, str, str], int] = {}
        leaks = []
        for entry in self.list(limit=2**31):
            first = firsts.setdefault((entry.owner, entry.target, write_tag(entry.tag)), entry.ref)
            if first != entry.ref:
                kind, detail = LeakKind.DUPLICATE, f"monitor {first} has the same owner, target and tag"
            elif age_s is not None and entry.age_s >= age_s:
                kind, detail = LeakKind.OLD, f"older than {age_s:g} s"
            else:
                continue
            leaks.append(Leak(kind, entry.ref, entry.owner, entry.target, entry.tag, entry.age_s, entry.origin, detail))
        self._counts["leaked"] = len(leaks)
        return leaks

    def repair_leaks(self, leaks: Iterable[Leak]) -> Leaks:
        """Remove them."""
        repaired = []
        for leak in leaks:
            with self._lock:
                if self._records.pop(leak.ref, None) is not None:
                    self._count("leak", 1)
                    repaired.append(leak)
        return repaired

    def _count(self, name: str, n: int) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + n
