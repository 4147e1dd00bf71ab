"""The servers and the processes of one run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery

from chaos import redis_record
from chaos.app import COORDINATION, ID, QUEUES, SENTRY
from chaos.claimed import id_of
from chaos.claims import ClaimsSeen, look_at_claims
from chaos.clock import CLOCK, Clock
from chaos.contended import ELECTION, SINGLETON
from chaos.functions import FUNCTIONS
from chaos.judge_schedules import ScheduleRecord
from chaos.options import Options
from chaos.owner import VARIABLE as OWNER_VARIABLE
from chaos.placed import CRANES, HAND, cranes_of
from chaos.process import Member
from chaos.redis_record import Recorded, read_record
from chaos.run_records import RunRecord, read_runs
from chaos.steps import STEPS
from chaos.tree import OPTIONS, Tree
from chaos.witness import VARIABLE, Witness
from orchestrator import Orchestrator
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.schedules.triggers import Interval
from orchestrator.core.settings import load_settings
from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.manager import QUEUE as MANAGER_QUEUE
from orchestrator.registry.registry import Death
from orchestrator.sending.calls.call_counts import CallCounts
from orchestrator.sending.ledger import LedgerRow, read_ledger

_CONCURRENCY = {"solo": 1, "threads": 4, "prefork": 2}

_ALONE = ("--without-gossip", "--without-mingle")

#: Seconds between two messages that kill their process, on average.
_POISON_INTERVAL_S = 20

#: Processes beside the workers that contend and ask.
_CONTENDERS = 2

#: Pending entries, or deaths, that one call reads at most.
_READ_LIMIT = 10_000


class Cluster:
    """Redis, the witness, workers, monitor manager, beat and senders of one run."""

    def __init__(self, options: Options, logs: Path) -> None:
        self.options = options
        self.logs = logs
        self._scratch = Path(tempfile.mkdtemp(prefix="chaos-scratch-"))
        self.broker = EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"})
        self._witness_server = EmbeddedServer()
        self.tree: Tree | None = None

    def open(self) -> None:
        """Start everything except the load."""
        redis_record.install()
        self.broker.start()
        self._witness_server.start()
        self.witness = Witness(self._witness_server.url)
        # An app with the settings of the processes, which only reads.
        self.orchestrator = Orchestrator(
            Celery("chaos-judge", broker=self.broker.url, set_as_current=False),
            load_settings(broker_url=self.broker.url),
        )
        self.orchestrator.host(Clock)
        if self.options.tree:
            self.tree = Tree(self._scratch, self._environment(), self.logs / "tree.log")
        self.workers = [self._worker(number) for number in range(self.options.workers)]
        self.manager = self._celery_worker("manager", [MANAGER_QUEUE], "solo", 1)
        self.beats = [self._beat(f"beat-{number}") for number in (1, 2)]
        seed, rate = self.options.seed, self.options.rate
        self.sender = self._member("sender", "chaos.sender", *map(str, (seed, rate, int(rate * _POISON_INTERVAL_S))))
        self.senders = [] if self.options.chords else [self.sender]
        if self.options.workflows:
            arguments = (str(seed), str(self.options.workflows), str(self.options.chords))
            self.senders.append(self._member("starter", "chaos.starter", *arguments))
        contenders = _CONTENDERS if self.options.coordination else 0
        #: They are part of the load, and restarted while it goes on.
        self.contenders = [
            self._member(f"contender-{number}", "chaos.contender", str(seed + number))
            for number in range(1, contenders + 1)
        ]
        if self.tree is not None:
            self.tree.start()
        for member in self.served:
            member.start()

    @property
    def served(self) -> list[Member]:
        """The processes that are restarted when they end."""
        return [*self.workers, self.manager, *self.beats]

    @property
    def mailboxes(self) -> tuple[str, ...]:
        """What the workers serve, all of them or some."""
        return (*self._shared, *CRANES)

    @property
    def _shared(self) -> tuple[str, ...]:
        coordination = COORDINATION if self.options.coordination else ()
        return (*QUEUES, STEPS, FUNCTIONS, SENTRY, CLOCK, HAND, *coordination)

    def _worker(self, number: int) -> Member:
        pool = self.options.pools[number % len(self.options.pools)]
        queues = (*self._shared, *cranes_of(number, self.options.workers))
        return self._celery_worker(f"{pool}-{number + 1}", queues, pool, _CONCURRENCY[pool])

    def _celery_worker(self, name: str, queues: Sequence[str], pool: str, concurrency: int) -> Member:
        if self.tree is None:
            return self._member(name, *_celery("worker", name, ",".join(queues), pool, concurrency))
        table = f'kind = "worker"\nqueues = {json.dumps(queues)}\npool = "{pool}"\nconcurrency = {concurrency}\n'
        return self.tree.add(name, table + f'log_level = "WARNING"\narguments = {json.dumps(_ALONE)}\n{OPTIONS}')

    def _beat(self, name: str) -> Member:
        arguments = ["--pidfile", ""]
        if self.tree is None:
            return self._member(name, *_celery_command("beat"), *arguments, "-l", "INFO")
        return self.tree.add(name, f'kind = "beat"\narguments = {json.dumps(arguments)}\n{OPTIONS}')

    def _member(self, name: str, module: str, *arguments: str) -> Member:
        return Member(name, [sys.executable, "-m", module, *arguments], self._environment(), self.logs)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PYTHONWARNINGS": "ignore",
            # With SIGABRT, a process that hangs prints its stacks.
            "PYTHONFAULTHANDLER": "1",
            "C_FORCE_ROOT": "1",
            "ORCHESTRATOR_BROKER_URL": self.broker.url,
            # Files that a killed process leaves behind are removed with the directory.
            "TMPDIR": str(self._scratch),
            VARIABLE: self._witness_server.url,
            OWNER_VARIABLE: str(os.getpid()),
        }

    def end_monitors(self) -> None:
        """Remove all monitors: no worker is left to handle their DOWNs."""
        monitors = self.orchestrator.monitors
        while left := monitors.list():
            for entry in left:
                monitors.demonitor(entry.ref, flush=False)

    # -- reading

    def ledger(self) -> list[LedgerRow]:
        """The broker's ledger."""
        return read_ledger(self.orchestrator.runtime.store)

    def pending(self, *queues: str) -> int:
        """Messages without an outcome, in these mailboxes or in all."""
        return sum(row.pending for row in self.ledger() if not queues or row.queue in queues)

    def held_by(self, pid: int) -> set[str]:
        """Witness ids of the messages that a process' incarnations hold."""
        store = self.orchestrator.runtime.store
        client: Any = store.client
        held: set[str] = set()
        mine = f":{pid}#"
        for stream in (s for queue in QUEUES for s in store.streams(queue) if client.exists(s)):
            for consumer in client.xinfo_consumers(stream, store.group):
                if mine not in consumer["name"].decode():
                    continue
                for entry in client.xpending_range(
                    stream, store.group, "-", "+", _READ_LIMIT, consumername=consumer["name"]
                ):
                    place = entry["message_id"]
                    held.update(
                        id_of(fields[b"m"], ID) for _, fields in client.xrange(stream, place, place) if b"m" in fields
                    )
        return held

    def waiting(self) -> set[str]:
        """Witness ids of all messages in the broker."""
        store = self.orchestrator.runtime.store
        client: Any = store.client
        found: set[str] = set()
        for queue in QUEUES:
            for stream in filter(client.exists, store.streams(queue)):
                found.update(id_of(fields[b"m"], ID) for _, fields in client.xrange(stream) if b"m" in fields)
            found.update(id_of(body, ID) for body in client.hvals(store.keys.delayed_bodies(queue)))
        return found

    def runs(self) -> list[RunRecord]:
        """All runs of workflows."""
        return read_runs(self.orchestrator)

    def schedules(self) -> list[ScheduleRecord]:
        """All schedules that a run has added, as they see themselves."""
        return [
            ScheduleRecord(
                info.id, info.definition.trigger.every_ms, info.state.anchor_ms, info.state.next_ms or 0, info.counts
            )
            for info in self.orchestrator.schedules.infos()
            if info.definition is not None and isinstance(info.definition.trigger, Interval)
        ]

    def open_runs(self) -> list[str]:
        """Why each run that has not ended has not."""
        workflows = self.orchestrator.workflows
        return ["; ".join(workflows.get(one.uid).explain()) for one in workflows.list() if not one.ended]

    def completed_runs(self) -> int:
        """Number of runs that have completed."""
        return sum(1 for _ in self.orchestrator.workflows.list(state="completed"))

    def replay_poisoned(self) -> int:
        """Replay the letters of messages that workers died with, as an operator does; returns how many."""
        letters = self.orchestrator.dead_letters
        poisoned = [letter for letter in letters.list(1000) if letter.reason == Reason.POISON]
        for letter in poisoned:
            letters.replay(letter.id)
        return len(poisoned)

    def leaders(self) -> list[int]:
        """Process ids of those that lead."""
        terms = [self.orchestrator.election(name).leader() for name in (ELECTION, SINGLETON)]
        return [_pid_of(term.leader) for term in terms if term is not None]

    def claims(self) -> ClaimsSeen:
        """Who leads the singleton, and who has claimed its messages."""
        return look_at_claims(self.orchestrator.runtime.store)

    def record(self) -> list[Recorded]:
        """Redis' own record of leases and asks."""
        return read_record(self.orchestrator.runtime.store.client)

    def calls(self) -> list[CallCounts]:
        """What became of the asks, as Redis has counted them."""
        return [counts for counts in self.orchestrator.call_counts() if counts.queue in COORDINATION]

    def open_barriers(self) -> list[str]:
        """Barriers at which a generation goes on."""
        barriers = self.orchestrator.coordination.barriers()
        return [f"{state.arrived} have arrived at {state.name}" for state in barriers if state.due_s is not None]

    def incarnations(self) -> int:
        """Number of leases, and of incarnations whose messages are being requeued."""
        store = self.orchestrator.runtime.store
        client: Any = store.client
        return int(client.zcard(store.keys.leases)) + int(client.zcard(store.keys.dying))

    def deaths(self) -> list[Death]:
        """The record of deaths."""
        return self.orchestrator.registry.deaths(_READ_LIMIT)

    def leased_pids(self) -> set[int]:
        """Process ids of living incarnations."""
        store = self.orchestrator.runtime.store
        client: Any = store.client
        return {_pid_of(raw.decode()) for raw in client.zrange(store.keys.leases, 0, -1)}

    def close(self) -> None:
        """Kill all processes and stop the servers."""
        for name in ("workers", "manager", "beats", "senders", "contenders"):
            members = getattr(self, name, [])
            for member in members if isinstance(members, list) else [members]:
                member.kill()
        if self.tree is not None:
            self.tree.close()
        self.broker.stop()
        self._witness_server.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _pid_of(incarnation: str) -> int:
    return int(incarnation.rsplit(":", 1)[1].split("#")[0])


def _celery_command(command: str) -> tuple[str, ...]:
    return ("celery", "-A", "chaos.app", command)


def _celery(command: str, name: str, queues: str, pool: str, concurrency: int) -> tuple[str, ...]:
    return (
        *_celery_command(command),
        *("-n", f"{name}@%h", "-Q", queues, "-P", pool, "-c", str(concurrency)),
        *("-l", "WARNING", *_ALONE),
    )
