"""One run: load, kills and restarts; then it waits until nothing is pending, and collects the evidence."""

from __future__ import annotations

import heapq
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from redis.exceptions import RedisError

from chaos.app import QUEUES
from chaos.claims import ClaimsSeen
from chaos.clock import add_schedules, pause_schedules
from chaos.cluster import Cluster
from chaos.judge import Evidence
from chaos.leftovers import leftovers
from chaos.options import Options
from chaos.process import Member
from chaos.strikes import Strike, plan
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.monitors.check import inconsistencies
from orchestrator.sending.ledger import LedgerRow

_TICK_S = 0.02

_LOOK_EVERY_S = 0.2

#: How long a worker that was asked to end may take. A prefork worker under load may hang for good, on any
#: transport: billiard's pool waits for a thread that waits for it.
_GRACE_S = 15.0

#: A process that ended by itself is restarted after this many seconds.
_FELL_S = 0.3

#: From the readiness of one worker to that of the next, at most.
_START_S = 60.0

#: For how long the load goes on at most because strikes are still to come.
_BEHIND_S = 40.0

#: Until a look at whether the tree has started a child again.
_LOOK_AGAIN_S = 0.1

#: How long the dead of the last moments linger.
_LINGER_S = 30.0

_AWAY = (RedisError, BrokerUnavailable, OSError)

Say = Callable[[str], None]


class Run:
    """Executes the plan on a cluster, and records what it did."""

    def __init__(self, cluster: Cluster, options: Options, say: Say) -> None:
        self._cluster = cluster
        self._options = options
        self._say = say
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._expected_down: set[str] = set()
        #: Pids of workers that have begun to consume; before that, a kill would prove little.
        self._ready: set[int] = set()
        #: Those of them that the witness knows.
        self._serving: set[int] = set()
        self._looked_at = float("-inf")
        self._redis_down = False
        self._problems: list[str] = []
        self._chords_at = float("-inf")
        #: Letters of harmless messages whose workers died thrice before their outcomes were recorded.
        self._replayed = 0
        self._kills = 0
        self._contending = False
        self._claims: list[ClaimsSeen] = []
        self._began = 0.0

    # -- the run

    def run(self) -> Evidence:
        """Execute the run; returns the evidence for the judge."""
        cluster, options = self._cluster, self._options
        if cluster.tree is not None:
            for member in cluster.served:
                self._bring_back(member, 0.0)
        self._await_workers()
        self._say("workers ready; load and kills begin")
        cluster.witness.write("load", rate=options.rate)
        add_schedules(cluster.orchestrator, options.schedules, options.seed)
        for member in (*cluster.senders, *cluster.contenders):
            member.start()
        self._contending = True
        self._began = began = time.monotonic()
        has_pools = any(worker.name.startswith("prefork") for worker in cluster.workers)
        kinds = [kind for kind in options.kills if kind != "child" or has_pools]
        for strike in plan(options.seed, kinds, options.duration_s, options.every_s):
            self._at(began + strike.at_s, partial(self._strike, strike))
        reported_at = began
        while (time.monotonic() < began + options.duration_s or self._is_behind()) and not self._is_over():
            self._tend()
            if time.monotonic() - reported_at > 30:
                reported_at = time.monotonic()
                self._say(f"{reported_at - began:.0f} s, {self._kills} kills")
        self._stop_load()
        drained = self._drain() and self._end_monitors()
        self._stop_all()
        left = self._settle_down() if drained else []
        if options.chords:
            self._check_chords()
        return Evidence(
            rows=cluster.witness.rows(),
            ledger=cluster.ledger(),
            load_queues=QUEUES,
            letters=cluster.orchestrator.dead_letters.list(100_000),
            waiting=cluster.waiting(),
            leftovers=left,
            problems=self._problems,
            runs=cluster.runs(),
            schedules=cluster.schedules(),
            fires=dict(cluster.orchestrator.schedules.ledger()),
            downs=cluster.orchestrator.monitors.stats().downs,
            deaths=cluster.deaths(),
            record=cluster.record(),
            claims=self._claims,
            calls=cluster.calls(),
            inconsistencies=inconsistencies(cluster.orchestrator.runtime.redis.monitors) if drained else (),
        )

    def _is_behind(self) -> bool:
        """Whether strikes are still to come: on a busy machine, their victims start for longer. Not for ever."""
        late_s = time.monotonic() - self._began - self._options.duration_s
        return late_s < _BEHIND_S and any(isinstance(act, partial) for _, _, act in self._due)

    def _is_over(self) -> bool:
        """Whether the load has ended by itself: that of chords once all of them have."""
        cluster = self._cluster
        if not self._options.chords:
            return not all(sender.is_running for sender in cluster.senders)
        if self._redis_down or any(sender.is_running for sender in cluster.senders):
            return False
        if time.monotonic() - self._chords_at < _LOOK_EVERY_S:
            return False
        self._chords_at = time.monotonic()
        try:
            self._replayed += cluster.replay_poisoned()
            return not cluster.open_runs() and cluster.completed_runs() == self._options.chords
        except _AWAY:
            return False

    def _await_workers(self) -> None:
        waited_for = {member.name for member in (*self._cluster.workers, self._cluster.manager)}
        until = time.monotonic() + _START_S
        while waited_for:
            ready = {
                member.name for member in (*self._cluster.workers, self._cluster.manager) if member.pid in self._ready
            }
            if waited_for & ready:
                waited_for -= ready
                until = time.monotonic() + _START_S
            if time.monotonic() > until:
                self._problems.append(f"not ready after {_START_S:g} s: {', '.join(sorted(waited_for))}")
                return
            self._tend()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._number), act))

    def _in(self, pause_s: float, act: Callable[[], None]) -> None:
        self._at(time.monotonic() + pause_s, act)

    def _tend(self) -> None:
        """Do the strikes that are due, and restart processes that have ended."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for member in (*self._cluster.served, *self._contenders()):
            if not member.is_running and member.name not in self._expected_down:
                self._fell(member)
        if not self._redis_down and time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            try:
                self._ready |= self._cluster.leased_pids()
                self._note_serving()
                if self._cluster.contenders:
                    self._claims.append(self._cluster.claims())
            except _AWAY:
                # It has just ended; the next look shows it.
                return
        time.sleep(_TICK_S)

    def _note_serving(self) -> None:
        for member in self._cluster.workers:
            if member.pid in self._ready - self._serving and member.is_running:
                self._serving.add(member.pid)
                self._cluster.witness.write("serves", node=member.name, pid=member.pid)

    def _fell(self, member: Member) -> None:
        # Poison kills a worker too; the judge knows whether it did.
        held = sorted(self._held_by(member.pid))
        self._cluster.witness.write("fell", node=member.name, pid=member.pid, exit_code=member.exit_code, held=held)
        self._bring_back(member, _FELL_S)

    def _bring_back(self, member: Member, pause_s: float) -> None:
        self._expected_down.add(member.name)

        def start() -> None:
            if member.name not in self._expected_down:
                # It ended twice before it was started, as it was struck and its supervisor then.
                return
            if not member.restart():
                self._in(_LOOK_AGAIN_S, start)
                return
            self._cluster.witness.write("up", node=member.name, pid=member.pid)
            self._expected_down.discard(member.name)

        self._in(pause_s, start)

    # -- kills

    def _strike(self, strike: Strike) -> None:
        if strike.kind == "redis":
            self._strike_redis(strike)
            return
        if strike.kind == "supervisor":
            self._strike_supervisor(strike)
            return
        victim = self._victim(strike)
        if victim is None:
            # The victim is still starting; the next candidate may be ready.
            self._in(0.3, partial(self._strike, strike))
            return
        match strike.kind:
            case "hard" | "manager" | "beat" | "contender":
                self._hard(victim, strike.kind, strike.pause_s)
            case "leader":
                kind = "contender" if victim in self._cluster.contenders else "hard"
                self._hard(victim, kind, strike.pause_s, leader=True)
            case "child":
                self._child(victim, strike)
            case "cold":
                self._ask(victim, strike.kind, signal.SIGQUIT, _GRACE_S, strike.pause_s)
            case "warm":
                self._ask(victim, strike.kind, signal.SIGTERM, strike.pause_s, 0.2)
            case "graceful":
                self._ask(victim, strike.kind, signal.SIGTERM, _GRACE_S, strike.pause_s)
            case _:
                self._stop(victim, strike)

    def _victim(self, strike: Strike) -> Member | None:
        match strike.kind:
            case "manager":
                candidates = [self._cluster.manager]
            case "beat" | "beat-stop":
                candidates = list(self._cluster.beats)
            case "contender" | "contender-stop" | "contender-freeze":
                candidates = list(self._cluster.contenders)
            case "leader":
                candidates = self._leaders()
            case "child":
                candidates = [worker for worker in self._cluster.workers if worker.name.startswith("prefork")]
            case _:
                candidates = self._cluster.workers
        up = [
            member
            for member in candidates
            if member.is_running
            and member.name not in self._expected_down
            and (member.pid in self._ready or member in self._cluster.beats)
        ]
        return up[int(strike.draw * len(up))] if up else None

    def _note(self, kind: str, name: str, pid: int = 0, **more: Any) -> int:
        self._kills += 1
        return self._cluster.witness.write("strike", node=name, pid=pid, kind=kind, **more)

    def _leaders(self) -> list[Member]:
        try:
            pids = [] if self._redis_down else self._cluster.leaders()
        except _AWAY:
            return []
        return [member for member in (*self._cluster.contenders, *self._cluster.workers) if member.pid in pids]

    def _hard(self, victim: Member, kind: str, pause_s: float, **more: Any) -> None:
        pids = [victim.pid, *victim.children()]
        looks = kind not in ("manager", "beat", "contender")
        held = self._held_when_stopped(victim.pid) if looks else set()
        killed_ms = self._cluster.witness.now_ms()
        victim.kill()
        self._note(kind, victim.name, victim.pid, pids=pids, held=sorted(held), killed_ms=killed_ms, **more)
        self._bring_back(victim, pause_s)

    def _held_when_stopped(self, pid: int) -> set[str]:
        """Stop a process that is to be killed, and find the messages that it holds.

        After its death they may be requeued before they can be looked up, and before it they change.
        """
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        return self._held_by(pid)

    def _held_by(self, pid: int) -> set[str]:
        if self._redis_down:
            return set()
        try:
            return self._cluster.held_by(pid)
        except _AWAY:
            return set()

    def _child(self, victim: Member, strike: Strike) -> None:
        children = victim.children()
        if not children:
            return
        child = children[int(strike.draw * 1000) % len(children)]
        killed_ms = self._cluster.witness.now_ms()
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
            self._note(strike.kind, victim.name, victim.pid, pids=[child], killed_ms=killed_ms)

    def _ask(self, victim: Member, kind: str, number: signal.Signals, grace_s: float, pause_s: float) -> None:
        self._note(kind, victim.name, victim.pid, pids=[victim.pid, *victim.children()])
        self._expected_down.add(victim.name)
        victim.signal(number)
        until = time.monotonic() + grace_s

        def look() -> None:
            if not victim.is_running:
                self._cluster.witness.write("ended", node=victim.name, pid=victim.pid, exit_code=victim.exit_code)
                self._bring_back(victim, pause_s)
            elif time.monotonic() > until:
                if grace_s >= _GRACE_S:
                    self._hung(victim)
                self._hard(victim, "hard", pause_s)
            else:
                self._in(0.1, look)

        look()

    def _stop(self, victim: Member, strike: Strike) -> None:
        self._note(strike.kind, victim.name, victim.pid, pids=[victim.pid], for_s=round(strike.pause_s, 1))
        victim.signal(signal.SIGSTOP, group=True)
        # It is not struck again while it is frozen: it could not react.
        self._expected_down.add(victim.name)

        def go_on() -> None:
            victim.signal(signal.SIGCONT, group=True)
            self._cluster.witness.write("continued", node=victim.name, pid=victim.pid)
            self._expected_down.discard(victim.name)

        self._in(strike.pause_s, go_on)

    def _strike_supervisor(self, strike: Strike) -> None:
        tree, served = self._cluster.tree, self._cluster.served
        if tree is None:
            return
        pids = [pid for member in served if member.is_running for pid in (member.pid, *member.children())]
        self._expected_down.update(member.name for member in served)
        killed_ms = self._cluster.witness.now_ms()
        tree.kill(pids)
        self._note(strike.kind, "supervisor", tree.pid, pids=pids, killed_ms=killed_ms)

        def restart() -> None:
            tree.start()
            self._cluster.witness.write("up", node="supervisor", pid=tree.pid)
            for member in served:
                self._bring_back(member, _FELL_S)

        self._in(strike.pause_s, restart)

    def _strike_redis(self, strike: Strike) -> None:
        if self._redis_down:
            return
        self._redis_down = True
        self._note("redis", "redis")
        self._cluster.broker.kill()

        def restart() -> None:
            self._cluster.broker.restart()
            self._redis_down = False
            self._cluster.witness.write("up", node="redis")

        self._in(strike.pause_s, restart)

    # -- the end

    def _check_chords(self) -> None:
        completed = self._cluster.completed_runs()
        took_s = time.monotonic() - self._began
        replayed = f", {self._replayed} dead letters replayed" if self._replayed else ""
        self._say(
            f"{completed} of {self._options.chords} chords completed in {took_s:.0f} s, {self._kills} kills{replayed}"
        )
        if completed != self._options.chords:
            self._problems.append(f"{completed} of {self._options.chords} chords have completed")

    def _stop_load(self) -> None:
        self._say("load ends; waiting for what is left")
        # The strikes that are still to come are called off; the others are restarts.
        self._due = [due for due in self._due if not isinstance(due[2], partial)]
        heapq.heapify(self._due)
        for sender in self._cluster.senders:
            if not sender.is_running and not (self._options.chords and sender.exit_code == 0):
                self._problems.append(f"the {sender.name} ended by itself with {sender.exit_code}")
            sender.signal(signal.SIGTERM)
        self._pause_schedules()
        self._stop_contenders()
        until = time.monotonic() + _GRACE_S
        while running := [sender for sender in self._cluster.senders if sender.is_running]:
            if time.monotonic() > until:
                for sender in running:
                    self._problems.append(f"the {sender.name} did not stop")
                    sender.kill()
            self._tend()

    def _contenders(self) -> list[Member]:
        """Those that are restarted when they end: all, while the load goes on."""
        return self._cluster.contenders if self._contending else []

    def _stop_contenders(self) -> None:
        """Stop them once those that are to be started, or to go on, have been."""
        contenders = self._cluster.contenders
        until = time.monotonic() + 2 * _GRACE_S
        while any(member.name in self._expected_down for member in contenders) and time.monotonic() < until:
            self._tend()
        self._contending = False
        for member in contenders:
            member.signal(signal.SIGTERM)
        until = time.monotonic() + _GRACE_S
        while any(member.is_running for member in contenders) and time.monotonic() < until:
            self._tend()
        for member in contenders:
            # A call may wait for a worker that is not there. Its asks end without it.
            was_running, pid, killed_ms = member.is_running, member.pid, self._cluster.witness.now_ms()
            member.kill()
            if was_running:
                self._note("contender", member.name, pid, pids=[pid], killed_ms=killed_ms)

    def _pause_schedules(self) -> None:
        """Pause them as soon as Redis answers; what is due until then is decided and counted."""
        until = time.monotonic() + _GRACE_S
        while time.monotonic() < until:
            try:
                pause_schedules(self._cluster.orchestrator)
            except _AWAY:
                self._tend()
            else:
                return
        self._problems.append("the schedules could not be paused")

    def _drain(self) -> bool:
        """Wait until nothing is pending and every run has ended; fails if nothing has been settled for a while."""
        settled, until = -1, time.monotonic() + self._options.drain_s
        while True:
            self._tend()
            try:
                rows = [row for row in self._cluster.ledger() if row.queue in self._cluster.mailboxes]
                # What asks are open, nobody may wait for any more.
                pending = any(row.pending for row in rows) or any(counts.open for counts in self._cluster.calls())
                is_open = not pending and not self._redis_down
                # Generations of barriers end in time, and may send messages then.
                unended = [*self._cluster.open_runs(), *self._cluster.open_barriers()] if is_open else []
            except _AWAY:
                continue
            is_over = not self._due and not self._redis_down and not pending and not unended
            if is_over and not self._has_accepted_since(rows):
                return True
            ended = sum(row.accepted - row.pending for row in rows)
            if ended > settled:
                settled, until = ended, time.monotonic() + self._options.drain_s
            if time.monotonic() > until:
                calls = [counts for counts in self._cluster.calls() if counts.open]
                stuck = [row for row in rows if row.pending] or unended or calls or sorted(self._expected_down)
                self._problems.append(f"nothing settled for {self._options.drain_s:g} s, still pending: {stuck}")
                return False

    def _has_accepted_since(self, rows: Iterable[LedgerRow]) -> bool:
        """Whether more was accepted: what was open just now may have ended since, and have sent messages."""
        try:
            now = [row for row in self._cluster.ledger() if row.queue in self._cluster.mailboxes]
        except _AWAY:
            return True
        return sum(row.accepted for row in now) > sum(row.accepted for row in rows)

    def _end_monitors(self) -> bool:
        """End all monitors, and wait until every recorded DOWN is handled."""
        self._cluster.witness.write("unwatch")
        self._cluster.end_monitors()
        return self._drain()

    def _stop_all(self) -> None:
        """Stop beat first, so that nothing more is sent, and the sweeper last."""
        cluster = self._cluster
        self._end(cluster.beats)
        self._end(cluster.workers)
        until = time.monotonic() + _GRACE_S
        while cluster.pending() and time.monotonic() < until:
            time.sleep(_TICK_S)
        self._end([cluster.manager])

    def _end(self, members: Iterable[Member]) -> None:
        members = list(members)
        for member in members:
            member.end()
        until = time.monotonic() + _GRACE_S
        while any(member.is_running for member in members) and time.monotonic() < until:
            time.sleep(_TICK_S)
        for member in members:
            if member.is_running:
                self._hung(member)
            member.kill()

    def _hung(self, member: Member) -> None:
        self._say(f"{member.name} did not end within {_GRACE_S:g} s; the stacks are in its log")
        self._cluster.witness.write("hung", node=member.name, pid=member.pid)
        member.say_where()

    def _settle_down(self) -> list[str]:
        """Sweep until no dead incarnation is left; then list what is left."""
        until = time.monotonic() + _LINGER_S
        while self._cluster.incarnations():
            if time.monotonic() > until:
                break
            self._cluster.orchestrator.runtime.redis.sweep()
            time.sleep(0.2)
        return leftovers(self._cluster.orchestrator.runtime.store)
