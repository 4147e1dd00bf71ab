"""The machine of a mailbox: the transport's scripts against a model, on a real Redis whose clock is the test's.

Several holders claim, mark, acknowledge, requeue, reject, retry and die in any order; after each step the ledger must
balance, and every message must be exactly where the model says, in the order in which it says.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.core.keys import GROUP, RETURNED
from orchestrator.sending.ledger import LedgerRow
from orchestrator.transport.mailbox_entry import DeathHistory, read_death_history
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Attempt
from tests.support.mailbox_machine import LEVELS, QUEUE, MailboxMachine
from tests.support.weighted_moves import WeightedMachine, move

BEGIN_MS = 10_000_000
MAX_DEATHS = 2

#: Of a script that is called until nothing is left: more than there are messages.
MOST_ROUNDS = 1000


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


def busy(machine: Mailbox) -> st.SearchStrategy[Worker]:
    """A worker that holds something; now and then one that only remembers it."""
    workers = [worker for worker in machine.all_workers if worker.held]
    return st.sampled_from([worker for worker in workers for _ in range(1 if worker.fenced else 3)])


def is_busy(machine: Mailbox) -> bool:
    """Whether there is such a worker."""
    return any(worker.held for worker in machine.all_workers)


def anybody(machine: Mailbox) -> st.SearchStrategy[Worker]:
    """A worker; mostly one that lives."""
    return st.sampled_from([worker for worker in machine.all_workers for _ in range(1 if worker.fenced else 5)])


class Mailbox(WeightedMachine, MailboxMachine):
    """One mailbox, several holders."""

    def __init__(self) -> None:
        super().__init__(BEGIN_MS)
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
        #: What else the ledger counts.
        self.counted: Counter[str] = Counter()
        #: The messages of each level that nobody has claimed, in their order.
        self.waiting: dict[str, list[str]] = {level: [] for level in LEVELS}
        #: When it is due, member, message.
        self.delayed: list[tuple[int, str, str]] = []

    @initialize(waiting=st.integers(0, 6))
    def begin(self, waiting: int) -> None:
        """Two workers and some mail, so that most steps find something to do."""
        streams = [self.keys.stream(QUEUE, level) for level in LEVELS]
        self.run_script(*commands.declare(self.keys, QUEUE, streams))
        for _ in range(waiting):
            self.publish(0, 1)
        self.start_worker()
        self.start_worker()

    # -- rules

    @move(when=lambda self: len(self._living()) < 4)
    def start_worker(self) -> Worker:
        raw, _ = self.run_script(
            *commands.register(self.keys, "node:1", {"node": "node", "queues": json.dumps([QUEUE])}),
        )
        worker = Worker(raw.decode())
        self.all_workers.append(worker)
        return worker

    @move(2, priority=st.sampled_from([0, 3, 9]), many=st.integers(1, 4))
    def publish(self, priority: int, many: int) -> None:
        names = [self._name() for _ in range(many)]
        self.run_script(*commands.publish(self.keys.stream(QUEUE, priority), self.keys.ledger(QUEUE), names))
        self.counts["accepted"] += many
        self.waiting[str(priority)] += names

    @move(due_ms=st.sampled_from([None, 0, 1000]))
    def publish_again(self, due_ms: int | None) -> None:
        """The answer was lost, so it is sent once more."""
        name, k = self._name(), self.keys
        attempt = Attempt("test:publishes", f"{self.numbers:016x}x")
        call = commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [name], attempt=attempt)
        if due_ms is not None:
            call = commands.delay(k, QUEUE, f"0|{name}", name, due_ms, attempt=attempt)
        for _ in range(2):
            self.run_script(*call)
        self.counts["accepted"] += 1
        if due_ms is None:
            self.waiting["0"].append(name)
        else:
            self._delayed(name, due_ms)

    @move(due_ms=st.sampled_from([0, 1000, 3_600_000]))
    def delay(self, due_ms: int) -> None:
        name = self._name()
        self.run_script(*commands.delay(self.keys, QUEUE, f"0|{name}", name, due_ms))
        self.counts["accepted"] += 1
        self._delayed(name, due_ms)

    def _delayed(self, name: str, due_ms: int) -> None:
        self.delayed = sorted([*self.delayed, (self.now + due_ms, f"0|{name}", name)])

    @move(by_ms=st.sampled_from([1, 999, 3_600_000]))
    def time_passes(self, by_ms: int) -> None:
        self.now += by_ms
        self.scripts.set(self.now)

    @move(5, worker=anybody, credit=st.integers(1, 5), ahead=st.integers(0, 5))
    def claim(self, worker: Worker, credit: int, ahead: int = 0) -> None:
        k = self.keys
        streams = [k.stream(QUEUE, level) for level in LEVELS]
        answer = self.run_script(*commands.claim(k, [QUEUE], LEVELS, worker.id, credit, ahead=ahead, leased=True))
        if worker.fenced:
            assert answer == [-2]
            return
        self._fall_due()
        assert answer[0] == (self.delayed[0][0] - self.now if self.delayed else -1)
        taken = [answer[at : at + 4] for at in range(1, len(answer), 4)]
        claimed = [(level, name) for level in LEVELS for name in self.waiting[level]][: credit + ahead]
        assert [(LEVELS[index - 4], raw.decode()) for index, _, raw, _ in taken] == claimed
        for level, name in claimed:
            self.waiting[level].remove(name)
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

    def _fall_due(self) -> None:
        due = [name for at, _, name in self.delayed if at <= self.now]
        self.delayed = self.delayed[len(due) :]
        self.waiting["0"] += due

    @move(2, when=is_busy, worker=busy, at=st.integers(0, 9))
    def deliver(self, worker: Worker, at: int) -> None:
        """What was claimed ahead has a slot now."""
        if (held := self._pick(worker, at)) and held.mark == 0:
            self._mark(worker, held, 1)

    @move(4, when=is_busy, worker=busy, at=st.integers(0, 9), mark=st.sampled_from([2, 3]))
    def start_running(self, worker: Worker, at: int, mark: int) -> None:
        if (held := self._pick(worker, at)) and held.mark:
            self._mark(worker, held, mark)

    def _mark(self, worker: Worker, held: Held, mark: int) -> None:
        held.mark = mark
        mine = self.redis.execute_command(
            "XCLAIM", held.stream, GROUP, worker.id, 0, held.entry, "RETRYCOUNT", mark, "JUSTID", parse_justid=True
        )
        assert bool(mine) is not worker.fenced, "what was requeued cannot be taken back"

    @move(2, when=is_busy, worker=busy, at=st.integers(0, 9), outcome=st.sampled_from(["handled", "cancelled"]))
    def settle(self, worker: Worker, at: int, outcome: str) -> None:
        if held := self._take(worker, at):
            ended = self.run_script(*commands.settle(held.stream, self.keys.ledger(QUEUE), outcome, [held.entry]))
            self._ended(worker, held, ended, outcome)

    @move(2, when=is_busy, worker=busy, at=st.integers(0, 9))
    def settle_twice(self, worker: Worker, at: int) -> None:
        """An acknowledgement that is sent again after a broken connection."""
        if held := self._take(worker, at):
            call = commands.settle(held.stream, self.keys.ledger(QUEUE), "handled", [held.entry])
            self._ended(worker, held, self.run_script(*call), "handled")
            assert self.run_script(*call) == 0
            self.counted["duplicated"] += 1

    @move(2, when=is_busy, worker=busy, at=st.integers(0, 9))
    def add_letter(self, worker: Worker, at: int) -> None:
        if held := self._take(worker, at):
            letter = '{"reason":"x"}'
            ended = self.run_script(
                *commands.dead_letter(self.keys, QUEUE, held.stream, held.entry, letter, "x", "E", ttl_ms=1000)
            )
            self._ended(worker, held, ended, "dead")

    @move(2, when=is_busy, worker=busy, at=st.integers(0, 9))
    def retry_now(self, worker: Worker, at: int) -> None:
        if held := self._take(worker, at):
            name = held.name
            moved = self.run_script(
                *commands.retry(self.keys, QUEUE, held.stream, held.entry, f"0|{name}", name, 0, ttl_ms=1000)
            )
            assert bool(moved) is not worker.fenced
            self.counted["retried" if moved else "duplicated"] += 1
            if moved:
                self._delayed(name, 0)
                # Its deaths are the message's, not the attempt's; and this attempt has started for all to see.
                self.unattributed_deaths.pop(held.name, None)
                self.returned.discard(held.name)
                self.undelivered.discard(held.name)

    @move(2, when=is_busy, worker=busy, at=st.integers(0, 9), died=st.booleans())
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
            (said,) = answer
            if worker.fenced:
                assert said == b"gone"
            else:
                self._returned(held, died, alone=held.mark == 3)
                assert (said == b"poison") is (self.outcome.get(held.name) == "dead")

    @move(3, worker=anybody, reason=st.sampled_from(["killed", "killed", "drained"]), batch=st.integers(1, 3))
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
        for _ in range(MOST_ROUNDS):
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
            if not more:
                break
        assert not more, "it goes on for ever"
        for held in sorted(worker.held, key=self._place_of):
            if reason == "killed" and held.mark == 1:
                self.unattributed_deaths[held.name] = self.unattributed_deaths.get(held.name, 0) + 1
            self._returned(held, held.mark > 1 and reason == "killed", alone=held.mark == 3)
            # What the worker still remembers, it may yet try to settle.
        assert not self.redis.exists(k.incarnation(worker.id))
        while len(self._living()) < 2:
            self.start_worker()

    @move(3, worker=anybody, mark=st.sampled_from([2, 3]), reason=st.sampled_from(["killed", "killed", "drained"]))
    def die_while_running(self, worker: Worker, mark: int, reason: str) -> None:
        """It claims and begins one more message; without this, few examples come to poison."""
        if not worker.fenced:
            self.claim(worker, 1)
            if worker.held:
                self.start_running(worker, -1, mark)
        self.die(worker, reason, 2)

    @move(mark=st.sampled_from([2, 3]))
    def be_poison(self, mark: int) -> None:
        """What came back first kills its next holder, too."""
        for _ in range(MAX_DEATHS):
            self.die_while_running(self._living()[0], mark, "killed")

    def _place_of(self, held: Held) -> tuple[int, ...]:
        """In the order in which a sweep comes by it."""
        streams = [self.keys.stream(QUEUE, level) for level in LEVELS]
        return (streams.index(held.stream), *(int(part) for part in held.entry.split("-")))

    @move(worker=anybody)
    def heartbeat(self, worker: Worker) -> None:
        call = commands.heartbeat(self.keys, worker.id, {"a": 1}, missed_ms=850, oom_group="g")
        alive, *_ = self.run_script(*call)
        assert bool(alive) is not worker.fenced

    @move(2, when=lambda self: self.redis.exists(self.keys.dead_letters))
    def replay(self) -> None:
        rows: Any = self.redis.xrange(self.keys.dead_letters, count=1)
        if rows:
            name = self._name()
            call = commands.replay(self.keys, "0", [rows[0][0]], audit_id="1-1", message=name)
            assert self.run_script(*call) == [b"", None, QUEUE.encode(), rows[0][0], b"", [b""]]
            assert self.run_script(*call) == [b"", None]
            self.counts["accepted"] += 1
            self.waiting["0"].append(name)

    @move(batch=st.integers(1, 3))
    def purge(self, batch: int) -> None:
        k = self.keys
        for stream in ("", *(k.stream(QUEUE, s) for s in LEVELS)):
            for _ in range(MOST_ROUNDS):
                dropped = self.run_script(*commands.purge(k, QUEUE, batch, ttl_ms=1000, stream=stream))
                if not dropped:
                    break
                self.counts["cancelled"] += dropped
            assert not dropped, "it goes on for ever"
        self.waiting, self.delayed = {level: [] for level in LEVELS}, []
        assert self._row().ready == 0

    # -- the model

    def _name(self) -> str:
        self.numbers += 1
        return f"m{self.numbers:04}"

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
        else:
            self.counted["duplicated"] += 1

    def _returned(self, held: Held, died: bool, alone: bool) -> None:
        if held.mark:
            self.undelivered.discard(held.name)
        elif held.name not in self.returned:
            self.undelivered.add(held.name)
        self.returned.add(held.name)
        self.redelivered += held.mark > 0
        level = LEVELS[self._place_of(held)[0]]
        level = level if level.startswith(RETURNED) else f"{RETURNED}{level}"
        self.waiting[level].append(held.name)
        if not died:
            return
        self.alone[held.name] = self.alone.get(held.name, 0) + alone
        self.deaths[held.name] = self.deaths.get(held.name, 0) + 1
        if self.deaths[held.name] >= MAX_DEATHS:
            self.outcome[held.name] = "dead"
            self.counts["dead"] += 1
            self.redelivered -= 1
            self.waiting[level].remove(held.name)

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
        raw: Any = self.redis.hmget(self.keys.ledger(QUEUE), ["retried", "duplicated"])
        assert [int(count or 0) for count in raw] == [self.counted["retried"], self.counted["duplicated"]]

    @invariant()
    def every_message_is_where_it_should_be(self) -> None:
        k = self.keys
        with self.redis.pipeline(transaction=False) as pipe:
            for level in LEVELS:
                pipe.xrange(k.stream(QUEUE, level))
            *streams, delayed, bodies = pipe.zrange(k.delayed(QUEUE), 0, -1, withscores=True).hgetall(
                k.delayed_bodies(QUEUE)
            ).execute()  # fmt: skip
        held = {(one.stream, one.entry) for worker in self._living() for one in worker.held}
        for level, entries in zip(LEVELS, streams, strict=True):
            stream = k.stream(QUEUE, level)
            there = [fields[b"m"].decode() for entry, fields in entries if (stream, entry.decode()) not in held]
            assert there == self.waiting[level]
        assert [(int(due), member.decode()) for member, due in delayed] == [one[:2] for one in self.delayed]
        assert {raw.partition(b"|d")[0].partition(b"|s")[0] for raw in bodies} == {
            member.encode() for _, member, _ in self.delayed
        }

    @invariant()
    def nothing_is_left_of_the_dead(self) -> None:
        known = [self.keys.incarnation(worker.id) for worker in self._living()]
        assert sorted(key.decode() for key in self.redis.keys(self.keys.incarnation("*"))) == sorted(known)
        assert not self.redis.exists(self.keys.dying)

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
