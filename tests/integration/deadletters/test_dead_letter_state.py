"""A hypothesis state machine: the dead-letter log in Redis against a model, and its index after every step."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.dead_letters import RetentionPolicy, run_maintenance
from tests.support.driven_machine import drive_machine
from tests.support.letters_under_test import QUEUE, LettersInRedis
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.weighted_moves import WeightedMachine, move

AGENTS = ("billing", "shipping")
ERRORS = ("ValueError", "KeyError")
RETRIES = 2
#: The last of so many is due within an hour.
FIRST_S = 1000


def has_letters(log: Log) -> bool:
    """Whether there is a letter."""
    return bool(log.letters)


class Log(WeightedMachine):
    """The model: which letters there are, which are parked, how often each line was retried by itself."""

    url: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.letter_log = LettersInRedis(self.url, (), None)
        self.letters: dict[str, tuple[str, str]] = {}
        self.parked: set[str] = set()
        self.auto: dict[str, int] = {}
        #: Old lines of letters that were sent again, by the letter they come from.
        self.sent: dict[str, tuple[str, str]] = {}
        self.dead_lettered = self.replayed = 0
        self.exported: list[str] = []
        self.hours = 0

    @initialize()
    def begin(self) -> None:
        self.letter_log.redis.flushall()
        for agent in AGENTS:
            self.add_letter(agent, ERRORS[0])

    @move(4, agent=st.sampled_from(AGENTS), error=st.sampled_from(ERRORS), size=st.sampled_from([1, 5000]))
    def add_letter(self, agent: str, error: str, size: int = 1) -> None:
        letter_id = self.letter_log.add_letter(agent=agent, error=error, body={"text": "x" * size})
        self.letters[letter_id] = (agent, error)
        self.auto[letter_id] = 0
        self.dead_lettered += 1

    def _pick(self, at: int) -> str:
        return sorted(self.letters)[at % len(self.letters)]

    def _gone(self, letter_id: str) -> None:
        del self.letters[letter_id]
        self.parked.discard(letter_id)

    @move(2, when=has_letters, at=st.integers(0, 9))
    def retry(self, at: int) -> None:
        letter_id = self._pick(at)
        self.letter_log.log.replay(letter_id)
        self._resent(letter_id, by_itself=False)

    def _resent(self, letter_id: str, *, by_itself: bool) -> None:
        self.sent[letter_id] = self.letters[letter_id]
        self.auto[letter_id] += by_itself
        self.replayed += 1
        self._gone(letter_id)

    @move(
        agent=st.sampled_from([None, *AGENTS]),
        state=st.sampled_from(["open", "parked", "all"]),
        operators=st.integers(1, 3),
    )
    def retry_at_once(self, agent: str | None, state: str, operators: int) -> None:
        """Several press the button; each letter is sent once."""
        meant = [
            i
            for i, (a, _) in self.letters.items()
            if agent in (None, a) and (state == "all" or (state == "parked") is (i in self.parked))
        ]
        sent: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: sent.append(self.letter_log.log.query(agent=agent, state=state).replay(all=True).sent)
            )
            for _ in range(operators)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert sum(sent) == len(meant)
        for letter_id in meant:
            self._resent(letter_id, by_itself=False)

    @move(3, when=lambda self: self.sent)
    def die_again(self) -> None:
        """What was sent again dies again: of the letter it comes from there is one successor."""
        again = self.letter_log.die_again()
        assert sorted(letter.replay_of for letter in again) == sorted(self.sent)
        for letter in again:
            agent, _ = self.sent.pop(letter.replay_of)
            self.letters[letter.id] = (agent, letter.error_type)
            self.auto[letter.id] = self.auto[letter.replay_of]
            assert letter.lineage.auto == self.auto[letter.id] <= RETRIES
            self.dead_lettered += 1

    @move(3, when=has_letters, at=st.integers(0, 9))
    def park(self, at: int) -> None:
        letter_id = self._pick(at)
        self.letter_log.log.park(letter_id, "note")
        self.parked.add(letter_id)

    @move(agent=st.sampled_from(AGENTS))
    def park_some(self, agent: str) -> None:
        meant = {i for i, (a, _) in self.letters.items() if a == agent and i not in self.parked}
        assert self.letter_log.log.query(agent=agent).park("note") == len(meant)
        self.parked |= meant

    @move(when=has_letters, at=st.integers(0, 9))
    def unpark(self, at: int) -> None:
        letter_id = self._pick(at)
        self.letter_log.log.unpark(letter_id)
        self.parked.discard(letter_id)

    @move(error=st.sampled_from(ERRORS), state=st.sampled_from(["open", "parked", "all"]))
    def purge(self, error: str, state: str) -> None:
        meant = [
            i
            for i, (_, e) in self.letters.items()
            if e == error and (state == "all" or (state == "parked") is (i in self.parked))
        ]
        assert self.letter_log.log.query(error=error, state=state).purge() == len(meant)
        for letter_id in meant:
            self._gone(letter_id)

    @move()
    def expire(self) -> None:
        """A week later; parked letters stay."""
        self.letter_log.let_pass(7 * 86400)
        meant = [i for i in self.letters if i not in self.parked]
        assert run_maintenance(self.letter_log.log, RetentionPolicy(ttl_s=86400), budget_s=60).expired == len(meant)
        self.letter_log.letter_store.later_ms = 0
        for letter_id in meant:
            self._gone(letter_id)

    @move(most=st.integers(1, 3))
    def trim(self, most: int) -> None:
        trimmed = run_maintenance(self.letter_log.log, RetentionPolicy(max_count=most), budget_s=60).trimmed
        assert trimmed == max(0, len(self.letters) - most)
        there = {letter.id for letter in self.letter_log.log.list(1000)}
        for letter_id in set(self.letters) - there:
            self._gone(letter_id)

    @move(2)
    def retry_by_itself(self) -> None:
        """An hour later everything planned is due; what was retried often enough is parked."""
        self.letter_log.let_pass(3600)
        before = set(self.letter_log.redis.zrange(self.letter_log.keys.letters_due, 0, -1))
        new, spent = self._to_plan()
        kept = run_maintenance(
            self.letter_log.log, RetentionPolicy(ttl_s=1e9, auto_replays=RETRIES, first_replay_s=1), budget_s=60
        )
        self.letter_log.letter_store.later_ms = 0
        due = {raw.decode() for raw in before} | (new - spent)
        assert (kept.replayed, kept.parked) == (len(due), len(spent))
        self.parked |= spent
        for letter_id in due:
            self._resent(letter_id, by_itself=True)

    @move()
    def retry_by_itself_and_die_again(self) -> None:
        """Until nothing is retried any more; without this, few examples come to that."""
        for _ in range(RETRIES + 1):
            self.retry_by_itself()
            self.die_again()

    @move(3)
    def plan_replays(self) -> None:
        """Nothing is due yet."""
        new, spent = self._to_plan()
        kept = run_maintenance(
            self.letter_log.log, RetentionPolicy(ttl_s=1e9, auto_replays=RETRIES, first_replay_s=FIRST_S), budget_s=60
        )
        assert (kept.replayed, kept.parked) == (0, len(spent))
        self.parked |= spent
        due = dict(self.letter_log.redis.zrange(self.letter_log.keys.letters_due, 0, -1, withscores=True))
        for letter_id in new - spent:
            assert due[letter_id.encode()] == _order(letter_id)[0] + FIRST_S * 1000 * 2 ** self.auto[letter_id]

    def _to_plan(self) -> tuple[set[str], set[str]]:
        """The letters that are looked at for the first time, and those of them that have no automatic replay left."""
        planned = self.letter_log.redis.get(self.letter_log.keys.letters_planned) or b"0-0"
        new = {i for i in self.letters if _order(i) > _order(planned.decode()) and i not in self.parked}
        return new, {i for i in new if self.auto[i] >= RETRIES}

    @move(2)
    def export(self) -> None:
        self.exported = list(self.letter_log.log.query(state="all").export())
        assert len(self.exported) == len(self.letters)
        assert sum(group.count for group in self.letter_log.log.query(state="all").groups()) == len(self.letters)

    @move(3, when=lambda self: self.exported)
    def import_again(self) -> None:
        before = {letter.id for letter in self.letter_log.log.list(1000)}
        added, known = self.letter_log.log.import_lines(self.exported)
        assert added + known == len(self.exported)
        assert self.letter_log.log.import_lines(self.exported) == (0, len(self.exported))
        for letter in self.letter_log.log.list(1000):
            if letter.id not in before:
                self.letters[letter.id] = (letter.agent, letter.error_type)
                self.auto[letter.id] = letter.lineage.auto
                if letter.state == "parked":
                    self.parked.add(letter.id)

    @invariant()
    def the_log_is_what_the_model_says(self) -> None:
        log = self.letter_log.log
        assert {letter.id for letter in log.list(1000)} == set(self.letters)
        assert log.query().count() == len(self.letters) - len(self.parked)
        assert {letter.id for letter in log.query(state="parked").page(1000).letters} == self.parked
        for agent in AGENTS:
            meant = {i for i, (a, _) in self.letters.items() if a == agent and i not in self.parked}
            assert {letter.id for letter in log.query(agent=agent).page(1000).letters} == meant

    @invariant()
    def nothing_dangles(self) -> None:
        assert self.letter_log.index_problems() == []

    @invariant()
    def the_ledger_counts_each_replay_once(self) -> None:
        ledger = self.letter_log.redis.hgetall(self.letter_log.keys.ledger(QUEUE))
        assert int(ledger.get(b"accepted", 0)) == self.replayed
        assert int(ledger.get(b"dead", 0)) == self.dead_lettered

    def teardown(self) -> None:
        self.letter_log.close()


def _order(letter_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in letter_id.split("-"))


def test_the_log_is_what_the_model_says(own_redis_server: EmbeddedServer) -> None:
    Log.url = own_redis_server.url
    drive_machine(Log, "LETTER_EXAMPLES", examples=15, steps=20)


#: In a script: what is right, and what is not.
FAULTS = {
    "what was replayed stays in the log": Fault("redis.call('XDEL', root .. 'dead-letters', unpack(ids))", ""),
    "a parked letter expires": Fault("if is_parked ~= (state == 'parked') then return false end", ""),
    "a replay is not accepted": Fault(
        "count_accepted(ledger, take)\n      redis.call('SADD', root .. 'queues', queue)",
        "redis.call('SADD', root .. 'queues', queue)",
    ),
    "an unparked letter keeps its note": Fault("redis.call('HDEL', root .. 'letters:notes', ARGV[i])", ""),
    "a kind outlives its letters": Fault("if redis.call('XLEN', key) == 0 then forget_kind(root, kind) end", ""),
    "the last of several stays in its kind": Fault("tonumber(seq) + 1))", "tonumber(seq)))"),
    "automatic replays are counted anew": Fault("auto = whole(before.auto) + auto,", "auto = auto,"),
    "an automatic replay too many": Fault("if auto >= most then", "if auto > most then"),
    "the first automatic replay is planned in seconds": Fault("+ first_ms * 2 ^ auto", "+ first_ms / 1000 * 2 ^ auto"),
    "what is parked is due": Fault("redis.call('ZREM', root .. 'letters:due', id)", ""),
    "what has left the log is never imported again": Fault(
        "if origins[1] then redis.call('HDEL', root .. 'letters:origins', unpack(origins)) end", ""
    ),
    "a parked letter is planned": Fault(
        " and not redis.call('ZSCORE', root .. 'letters:parked', padded(row.id)) then", " then"
    ),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=3))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    Log.url = own_redis_server.url
    assert_finds(Log, FAULTS[fault], examples=60, steps=20)
