"""A hypothesis state machine: the dead-letter log in Redis against a model, and its index after every step."""

from __future__ import annotations

import threading
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.dead_letters import RetentionPolicy, run_maintenance
from tests.support.letters_under_test import QUEUE, LettersInRedis

AGENTS = ("billing", "shipping")
ERRORS = ("ValueError", "KeyError")
RETRIES = 2


class Log(RuleBasedStateMachine):
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

    @rule(agent=st.sampled_from(AGENTS), error=st.sampled_from(ERRORS), size=st.sampled_from([1, 5000]))
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

    @precondition(lambda self: self.letters)
    @rule(at=st.integers(0, 9))
    def retry(self, at: int) -> None:
        letter_id = self._pick(at)
        self.letter_log.log.replay(letter_id)
        self._resent(letter_id, by_itself=False)

    def _resent(self, letter_id: str, *, by_itself: bool) -> None:
        self.sent[letter_id] = self.letters[letter_id]
        self.auto[letter_id] += by_itself
        self.replayed += 1
        self._gone(letter_id)

    @rule(
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

    @rule()
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

    @precondition(lambda self: self.letters)
    @rule(at=st.integers(0, 9))
    def park(self, at: int) -> None:
        letter_id = self._pick(at)
        self.letter_log.log.park(letter_id, "note")
        self.parked.add(letter_id)

    @rule(agent=st.sampled_from(AGENTS))
    def park_some(self, agent: str) -> None:
        meant = {i for i, (a, _) in self.letters.items() if a == agent and i not in self.parked}
        assert self.letter_log.log.query(agent=agent).park("note") == len(meant)
        self.parked |= meant

    @precondition(lambda self: self.letters)
    @rule(at=st.integers(0, 9))
    def unpark(self, at: int) -> None:
        letter_id = self._pick(at)
        self.letter_log.log.unpark(letter_id)
        self.parked.discard(letter_id)

    @rule(error=st.sampled_from(ERRORS), state=st.sampled_from(["open", "parked", "all"]))
    def purge(self, error: str, state: str) -> None:
        meant = [
            i
            for i, (_, e) in self.letters.items()
            if e == error and (state == "all" or (state == "parked") is (i in self.parked))
        ]
        assert self.letter_log.log.query(error=error, state=state).purge() == len(meant)
        for letter_id in meant:
            self._gone(letter_id)

    @rule()
    def expire(self) -> None:
        """A week later; parked letters stay."""
        self.letter_log.let_pass(7 * 86400)
        meant = [i for i in self.letters if i not in self.parked]
        assert run_maintenance(self.letter_log.log, RetentionPolicy(ttl_s=86400), budget_s=60).expired == len(meant)
        self.letter_log.letter_store.later_ms = 0
        for letter_id in meant:
            self._gone(letter_id)

    @rule(most=st.integers(1, 3))
    def trim(self, most: int) -> None:
        trimmed = run_maintenance(self.letter_log.log, RetentionPolicy(max_count=most), budget_s=60).trimmed
        assert trimmed == max(0, len(self.letters) - most)
        there = {letter.id for letter in self.letter_log.log.list(1000)}
        for letter_id in set(self.letters) - there:
            self._gone(letter_id)

    @rule()
    def retry_by_itself(self) -> None:
        """An hour later everything planned is due; what was retried often enough is parked."""
        self.letter_log.let_pass(3600)
        before = set(self.letter_log.redis.zrange(self.letter_log.keys.letters_due, 0, -1))
        planned = self.letter_log.redis.get(self.letter_log.keys.letters_planned) or b"0-0"
        kept = run_maintenance(
            self.letter_log.log, RetentionPolicy(ttl_s=1e9, auto_replays=RETRIES, first_replay_s=1), budget_s=60
        )
        self.letter_log.letter_store.later_ms = 0
        new = [i for i in self.letters if _order(i) > _order(planned.decode()) and i not in self.parked]
        spent = {i for i in new if self.auto[i] >= RETRIES}
        due = {raw.decode() for raw in before} | (set(new) - spent)
        assert (kept.replayed, kept.parked) == (len(due), len(spent))
        self.parked |= spent
        for letter_id in due:
            self._resent(letter_id, by_itself=True)

    @rule()
    def export(self) -> None:
        self.exported = list(self.letter_log.log.query(state="all").export())
        assert len(self.exported) == len(self.letters)
        assert sum(group.count for group in self.letter_log.log.query(state="all").groups()) == len(self.letters)

    @rule()
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
    run_state_machine_as_test(
        Log,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
