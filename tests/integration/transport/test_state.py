"""A hypothesis state machine: the transport's scripts against a model, on a real Redis.

Several holders claim, mark, acknowledge, requeue, reject, retry and die in any order; after each step the ledger
must balance, and every message must be exactly where the model says.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from orchestrator.core.keys import GROUP, RETURNED, Keys, levels_of
from orchestrator.embedded import EmbeddedServer
from orchestrator.sending.ledger import LedgerRow
from orchestrator.transport.mailbox_entry import DeathHistory, read_death_history
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import sha, source
from tests.support.patient_redis import patient_redis

QUEUE = "q"
LEVELS = levels_of([0, 3, 6, 9])
MAX_DEATHS = 3
SCRIPTS = (
    "publish", "delay", "claim", "settle", "retry", "dead_letter", "requeue_held", "register", "fence", "reclaim",
    "mailbox_depths", "purge", "replay", "declare", "heartbeat",
)  # fmt: skip


@dataclass
class Held:
    """A message as one holder knows it."""

    stream: str
    entry: str
    name: str
    #: The delivery counter: 0 claimed ahead, 1 claimed, 2 running, 3 running with nothing beside it.
    mark: int = 1


@dataclass
class Worker:
    """A holder in the model."""

    id: str
    held: list[Held] = field(default_factory=list)
    fenced: bool = False


class Mailbox(RuleBasedStateMachine):
    """One mailbox, several holders."""

    url: ClassVar[str] = ""
    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.redis = patient_redis(self.url)
        self.keys = Keys()
        self.numbers = 0
        self.all_workers: list[Worker] = []
        self.deaths: dict[str, int] = {}
        self.alone: dict[str, int] = {}
        self.unattributed_deaths: dict[str, int] = {}
        #: What came back and had never been delivered.
        self.undelivered: set[str] = set()
        self.returned: set[str] = set()
        self.redelivered = 0
        self.returned_streams = {self.keys.stream(QUEUE, level) for level in LEVELS if level.startswith(RETURNED)}
        self.outcome: dict[str, str] = {}
        self.counts = dict.fromkeys(("accepted", "handled", "dead", "cancelled"), 0)

    def run_script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return self.redis.evalsha(sha(name), len(keys), *keys, *args)

    @initialize(target=workers, waiting=st.integers(0, 6))
    def begin(self, waiting: int) -> Any:
        """Two workers and some mail, so that most steps find something to do."""
        self.redis.flushall()
        for name in SCRIPTS:
            self.redis.script_load(source(name).decode())
        streams = [self.keys.stream(QUEUE, level) for level in LEVELS]
        self.run_script(*commands.declare(self.keys, QUEUE, streams))
        for _ in range(waiting):
            self.publish(0, 1)
        return multiple(self.start_worker(), self.start_worker())

    # -- rules

    @rule(target=workers)
    def start_worker(self) -> Worker:
        raw, _ = self.run_script(
            *commands.register(self.keys, "node:1", {"node": "node", "queues": json.dumps([QUEUE])}),
        )
        worker = Worker(raw.decode())
        self.all_workers.append(worker)
        return worker

    @rule(priority=st.sampled_from([0, 3, 9]), many=st.integers(1, 4))
    def publish(self, priority: int, many: int) -> None:
        names = [self._name() for _ in range(many)]
        self.run_script(*commands.publish(self.keys.stream(QUEUE, priority), self.keys.ledger(QUEUE), names))
        self.counts["accepted"] += many

    @rule(due_ms=st.sampled_from([0, 3_600_000]))
    def delay(self, due_ms: int) -> None:
        name = self._name()
        self.run_script(*commands.delay(self.keys, QUEUE, f"0|{name}", name, due_ms))
        self.counts["accepted"] += 1

    @rule(worker=workers, credit=st.integers(1, 5), ahead=st.integers(0, 5))
    def claim(self, worker: Worker, credit: int, ahead: int = 0) -> None:
        k = self.keys
        streams = [k.stream(QUEUE, level) for level in LEVELS]
        answer = self.run_script(*commands.claim(k, [QUEUE], LEVELS, worker.id, credit, ahead=ahead, leased=True))
        if worker.fenced:
            assert answer == [-2]
            return
        taken = [answer[at : at + 4] for at in range(1, len(answer), 4)]
        assert len(taken) <= credit + ahead
        for at, (index, entry, raw, past) in enumerate(taken):
            name = raw.decode()
            assert name not in self.outcome
            assert not any(held.name == name for w in self._living() for held in w.held), "held twice"
            deaths = self.deaths.get(name, 0)
            assert past.startswith(b"n") is (name in self.undelivered)
            assert (streams[index - 4] in self.returned_streams) is (name in self.returned)
            assert read_death_history(past.removeprefix(b"n")) == DeathHistory(
                deaths, deaths, self.unattributed_deaths.get(name, 0)
            )
            worker.held.append(Held(streams[index - 4], entry.decode(), name, mark=int(at < credit)))

    @rule(worker=workers, at=st.integers(0, 9))
    def deliver(self, worker: Worker, at: int) -> None:
        """What was claimed ahead has a slot now."""
        if (held := self._pick(worker, at)) and held.mark == 0:
            self._mark(worker, held, 1)

    @rule(worker=workers, at=st.integers(0, 9), mark=st.sampled_from([2, 3]))
    def start_running(self, worker: Worker, at: int, mark: int) -> None:
        if (held := self._pick(worker, at)) and held.mark:
            self._mark(worker, held, mark)

    def _mark(self, worker: Worker, held: Held, mark: int) -> None:
        held.mark = mark
        mine = self.redis.execute_command(
            "XCLAIM", held.stream, GROUP, worker.id, 0, held.entry, "RETRYCOUNT", mark, "JUSTID", parse_justid=True
        )
        assert bool(mine) is not worker.fenced, "what was requeued cannot be taken back"

    @rule(worker=workers, at=st.integers(0, 9), outcome=st.sampled_from(["handled", "cancelled"]))
    def settle(self, worker: Worker, at: int, outcome: str) -> None:
        if held := self._take(worker, at):
            ended = self.run_script(*commands.settle(held.stream, self.keys.ledger(QUEUE), outcome, [held.entry]))
            self._ended(worker, held, ended, outcome)

    @rule(worker=workers, at=st.integers(0, 9))
    def settle_twice(self, worker: Worker, at: int) -> None:
        """An acknowledgement that is sent again after a broken connection."""
        if held := self._take(worker, at):
            call = commands.settle(held.stream, self.keys.ledger(QUEUE), "handled", [held.entry])
            self._ended(worker, held, self.run_script(*call), "handled")
            assert self.run_script(*call) == 0

    @rule(worker=workers, at=st.integers(0, 9))
    def add_letter(self, worker: Worker, at: int) -> None:
        if held := self._take(worker, at):
            letter = '{"reason":"x"}'
            ended = self.run_script(
                *commands.dead_letter(self.keys, QUEUE, held.stream, held.entry, letter, "x", "E", ttl_ms=1000)
            )
            self._ended(worker, held, ended, "dead")

    @rule(worker=workers, at=st.integers(0, 9))
    def retry_now(self, worker: Worker, at: int) -> None:
        if held := self._take(worker, at):
            name = held.name
            moved = self.run_script(
                *commands.retry(self.keys, QUEUE, held.stream, held.entry, f"0|{name}", name, 0, ttl_ms=1000)
            )
            assert bool(moved) is not worker.fenced
            if moved:
                # Its deaths are the message's, not the attempt's; and this attempt has started for all to see.
                self.unattributed_deaths.pop(held.name, None)
                self.returned.discard(held.name)
                self.undelivered.discard(held.name)

    @rule(worker=workers, at=st.integers(0, 9), died=st.booleans())
    def requeue(self, worker: Worker, at: int, died: bool) -> None:
        if held := self._take(worker, at):
            died = died and held.mark > 0
            answer = self.run_script(
                *commands.requeue_held(
                    self.keys,
                    QUEUE,
                    held.stream,
                    [held.entry],
                    max_deaths=MAX_DEATHS,
                    ttl_ms=1000,
                    by=worker.id,
                    reason="killed" if died else "",
                    ran="undelivered" if held.mark == 0 else str(held.mark // 3),
                )
            )
            # With a poison message comes what there is to be said of it.
            (said,) = answer[1] if answer[0] == b"events" else answer
            if worker.fenced:
                assert said == b"gone"
            else:
                self._returned(held, died, alone=held.mark == 3)
                assert (said == b"poison") is (self.outcome.get(held.name) == "dead")

    @rule(worker=workers, reason=st.sampled_from(["killed", "drained"]), batch=st.integers(1, 3))
    def die(self, worker: Worker, reason: str, batch: int) -> None:
        """A worker is fenced; its messages are requeued in steps, other things may happen in between."""
        k = self.keys
        fenced = self.run_script(
            *commands.fence(k, worker.id, reason, "test"),
        )
        assert bool(fenced) is not worker.fenced
        if not fenced:
            return
        worker.fenced = True
        more = 1
        while more:
            _, more, _ = self.run_script(
                *commands.reclaim(
                    k,
                    worker.id,
                    (*LEVELS, "bell"),
                    max_deaths=MAX_DEATHS,
                    ttl_ms=1000,
                    batch=batch,
                    linger_ms=0,
                    death_hooks_done=True,
                )
            )
        for held in worker.held:
            if reason == "killed" and held.mark == 1:
                self.unattributed_deaths[held.name] = self.unattributed_deaths.get(held.name, 0) + 1
            self._returned(held, held.mark > 1 and reason == "killed", alone=held.mark == 3)
            # What the worker still remembers, it may yet try to settle.
        assert not self.redis.exists(k.incarnation(worker.id))

    @rule(worker=workers)
    def heartbeat(self, worker: Worker) -> None:
        call = commands.heartbeat(self.keys, worker.id, {"a": 1}, missed_ms=850, oom_group="g")
        alive, *_ = self.run_script(*call)
        assert bool(alive) is not worker.fenced

    @rule()
    def replay(self) -> None:
        rows: Any = self.redis.xrange(self.keys.dead_letters, count=1)
        if rows:
            name = self._name()
            call = commands.replay(self.keys, "0", [rows[0][0]], audit_id="1-1", message=name)
            assert self.run_script(*call) == [b"", None, QUEUE.encode(), rows[0][0], b"", [b""]]
            assert self.run_script(*call) == [b"", None]
            self.counts["accepted"] += 1

    @rule(batch=st.integers(1, 3))
    def purge(self, batch: int) -> None:
        k = self.keys
        for stream in ("", *(k.stream(QUEUE, s) for s in LEVELS)):
            while dropped := self.run_script(*commands.purge(k, QUEUE, batch, ttl_ms=1000, stream=stream)):
                self.counts["cancelled"] += dropped
        assert self._row().ready == 0

    # -- the model

    def _name(self) -> str:
        self.numbers += 1
        return f"m{self.numbers}"

    def _living(self) -> list[Worker]:
        return [w for w in self.all_workers if not w.fenced]

    def _pick(self, worker: Worker, at: int) -> Held | None:
        return worker.held[at % len(worker.held)] if worker.held else None

    def _take(self, worker: Worker, at: int) -> Held | None:
        held = self._pick(worker, at)
        if held is not None:
            worker.held.remove(held)
        return held

    def _ended(self, worker: Worker, held: Held, ended: Any, outcome: str) -> None:
        assert bool(ended) is not worker.fenced, "a fenced worker settles nothing, a living one everything it holds"
        if ended:
            assert held.name not in self.outcome, "two outcomes"
            self.outcome[held.name] = outcome
            self.counts[outcome] += 1

    def _returned(self, held: Held, died: bool, alone: bool) -> None:
        if held.mark:
            self.undelivered.discard(held.name)
        elif held.name not in self.returned:
            self.undelivered.add(held.name)
        self.returned.add(held.name)
        self.redelivered += held.mark > 0
        if not died:
            return
        self.alone[held.name] = self.alone.get(held.name, 0) + alone
        self.deaths[held.name] = self.deaths.get(held.name, 0) + 1
        if self.deaths[held.name] >= MAX_DEATHS:
            self.outcome[held.name] = "dead"
            self.counts["dead"] += 1
            self.redelivered -= 1

    def _row(self) -> LedgerRow:
        (answer,) = self.run_script(*commands.mailbox_depths(self.keys, LEVELS, [QUEUE]))
        counted = {answer[4][i].decode(): int(answer[4][i + 1]) for i in range(0, len(answer[4]), 2)}
        names = ("accepted", "handled", "dead", "cancelled", "expired")
        return LedgerRow(
            QUEUE, ready=answer[1], held=answer[2], delayed=answer[3], **{n: counted.get(n, 0) for n in names}
        )

    @invariant()
    def the_ledger_balances(self) -> None:
        row = self._row()
        assert row.lost == 0
        assert {name: getattr(row, name) for name in self.counts} == self.counts

    @invariant()
    def a_letter_tells_which_deaths_were_solitary(self) -> None:
        letters: Any = self.redis.xrange(self.keys.dead_letters)
        for entry, letter in letters:
            found: Any = self.redis.xrange(self.keys.letters_of(letter[b"k"].decode()), entry, entry)
            ((_, again),) = found
            name, deaths = again[b"m"].decode(), json.loads(letter.get(b"d", b"[]"))
            assert len(deaths) == self.deaths.get(name, 0)
            assert sum(death.get("alone", False) for death in deaths) == self.alone.get(name, 0)

    @invariant()
    def only_what_was_delivered_counts_as_redelivered(self) -> None:
        assert int(self.redis.hget(self.keys.ledger(QUEUE), "redelivered") or 0) == self.redelivered

    @invariant()
    def redis_knows_who_holds_what(self) -> None:
        assert self._row().held == sum(len(w.held) for w in self._living())

    def teardown(self) -> None:
        self.redis.close()


def test_the_mailbox_is_what_the_model_says(own_redis_server: EmbeddedServer) -> None:
    Mailbox.url = own_redis_server.url
    run_state_machine_as_test(
        Mailbox,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_deaths_outlive_an_attempt_that_merely_failed(redis_url: str) -> None:
    """Regression: a message that killed its workers, and now and then raised an error, was never poison."""
    Mailbox.url = redis_url
    mailbox = Mailbox()
    mailbox.begin(0)
    mailbox.publish(0, 1)
    first, second = mailbox.all_workers
    mailbox.claim(first, 1)
    mailbox.start_running(first, 0, 2)
    mailbox.die(first, "killed", 3)
    for _ in range(2):
        mailbox.claim(second, 1)
        assert len(second.held) == 1
        mailbox.retry_now(second, 0)
    mailbox.claim(second, 1)
    assert mailbox.deaths == {second.held[0].name: 1}
    mailbox.settle(second, 0, "handled")
    assert not mailbox.redis.exists(mailbox.keys.delayed_bodies(QUEUE))
    mailbox.teardown()


@pytest.mark.slow
def test_the_machine_waits_for_a_server_that_stalls(own_redis_server: EmbeddedServer) -> None:
    """Regression: the machine gave up once, and Hypothesis said that its data was drawn in another way."""
    Mailbox.url = own_redis_server.url
    mailbox = Mailbox()
    mailbox.begin(0)
    os.kill(own_redis_server.pid, signal.SIGSTOP)
    going_on = threading.Timer(5.5, os.kill, (own_redis_server.pid, signal.SIGCONT))
    going_on.start()
    mailbox.publish(0, 2)
    mailbox.the_ledger_balances()
    mailbox.teardown()
    going_on.join()
