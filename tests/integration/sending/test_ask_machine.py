"""A hypothesis state machine: asks by the scripts on a real Redis, beside the pure rule."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from orchestrator.core.admission import bulkhead
from orchestrator.core.calls import ask as pure
from orchestrator.core.calls import call_budget
from orchestrator.core.calls.ask import AskState, Ending
from orchestrator.core.keys import GROUP
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.admission.ask_record import AskRecord, MailReply, SharedRecord
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import AskTexts, Attempt
from tests.support.driven_machine import drive_machine
from tests.support.mailbox_machine import LEVELS, QUEUE, TTL_MS, MailboxMachine, message
from tests.support.planted_faults import Fault, assert_finds, cases

BEGIN_MS = 10_000_000
ASKER = "asker"


class Asks(MailboxMachine):
    """A mailbox that is asked, its workers, an asker's mailbox and the clock."""

    def __init__(self) -> None:
        super().__init__(BEGIN_MS)
        self.asks: dict[str, AskState | None] = {}
        self.endings: dict[str, Ending] = {}
        #: Requests that a worker has: the stream and entry of each.
        self.held: dict[str, tuple[str, str]] = {}
        self.ended: set[str] = set()
        #: Each copy of a request, and its ask.
        self.requests: dict[str, str] = {}
        self.budget = call_budget.START
        self.counted: Counter[str] = Counter()
        self.refused = self.publishes = 0
        #: The asks that a bulkhead counts, and when their time is over.
        self.in_flight: dict[str, int] = {}

    @initialize(budget=st.sampled_from([call_budget.START, 250]))
    def begin(self, budget: int) -> None:
        # Few examples come to the end of a whole budget.
        self.budget = budget
        self.redis.hset(self.keys.calls(QUEUE), "budget", budget)
        for queue in (QUEUE, ASKER):
            self.run_script(*commands.declare(self.keys, queue, [self.keys.stream(queue, level) for level in LEVELS]))
        # The asker's mailbox is full, and its breaker open: replies must pass both.
        fields = {
            "root": self.keys.root, "queue": ASKER, "levels": " ".join(LEVELS), "group": GROUP,
            "outcome_ttl_ms": TTL_MS, "limit": 1, "overflow": "refuse", "failures": 1, "window_ms": 1000,
            "open_ms": 10**9,
        }  # fmt: skip
        self.run_script(*commands.declare_flow(self.keys, ASKER, fields, serves=True, has_bound=True, has_breaker=True))
        self.redis.hset(self.keys.flow(ASKER), mapping={"phase": "open", "until_ms": 10**12})

    def call(self, ask: str, delivery: str, kind: str, timeout_ms: int, most: int = 0) -> Any:
        reply = MailReply(ASKER, ASKER, "0", f'{{"headers": {{}}, "id": "{ask}", "body": "', '"}')
        record = AskRecord(ask, delivery, kind, timeout_ms, TTL_MS, [] if kind == "hedge" else [reply], most)
        self.publishes += 1
        attempt = Attempt("test:publishes", f"{self.publishes:016x}x")
        return record.call(self.keys, QUEUE, "0", message(delivery), 0, attempt)

    @rule(
        timeout_ms=st.sampled_from([100, 300, 5000]),
        kind=st.sampled_from(["ask", "call", "retry"]),
        most=st.sampled_from([0, 2]),
        repeats=st.booleans(),
    )
    def ask(self, timeout_ms: int, kind: str, most: int, repeats: bool) -> None:
        number = f"a{len(self.asks)}"
        call = self.call(number, number, kind, timeout_ms, most)
        budget = call_budget.spent(self.budget) if kind == "retry" else self.budget
        due_ms, before = self.now + timeout_ms, self.in_flight
        in_flight = bulkhead.admitted(before, most, number, due_ms, self.now) if most else before
        # Its reply may be lost, so that it is repeated.
        for _ in range(2 if repeats else 1):
            expected: Any = [b"not sent", b"budget"] if budget is None else number.encode()
            if budget is not None and in_flight is None:
                count = str(len(bulkhead.in_flight(before, self.now))).encode()
                expected = [b"refused", 0, [b"bulkhead", count, b"2", b"0", b"0"]]
            assert self.run_script(*call) == expected
            self.refused += budget is None
        if budget is not None and in_flight is not None:
            self.in_flight = in_flight
            self.budget = call_budget.deposited(budget) if kind == "call" else budget
            self.asks[number] = pure.accepted(AskState(self.now + timeout_ms), number)
            self.requests[number] = number
            self.counted.update(["asked"] if kind != "retry" else ["asked", "retried"])

    @rule(timeout_ms=st.sampled_from([100, 5000]), count=st.integers(1, 4), repeats=st.booleans())
    def ask_many(self, timeout_ms: int, count: int, repeats: bool) -> None:
        numbers = [f"a{len(self.asks) + at}" for at in range(count)]
        requests = [
            AskTexts(one, message(one), f'{{"headers": {{}}, "id": "{one}", "body": "', '"}') for one in numbers
        ]
        self.publishes += 1
        attempt = Attempt("test:publishes", f"{self.publishes:016x}x")
        call = SharedRecord(timeout_ms, TTL_MS, ASKER, ASKER, "0").call(self.keys, QUEUE, "0", requests, attempt)
        for _ in range(2 if repeats else 1):
            assert self.run_script(*call) == count
        for number in numbers:
            self.asks[number] = pure.accepted(AskState(self.now + timeout_ms), number)
            self.requests[number] = number
        self.counted.update({"asked": count})

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), repeats=st.booleans())
    def hedge(self, data: st.DataObject, repeats: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.asks)))
        state, budget, copy = self.asks[number], call_budget.spent(self.budget), f"c{len(self.requests)}"
        call = self.call(number, copy, "hedge", 0)
        for _ in range(2 if repeats else 1):
            said = self.run_script(*call)
            if state is None:
                assert said == [b"not sent", b"ended"]
            elif budget is None:
                assert said == [b"not sent", b"budget"]
                self.refused += 1
            else:
                assert said == copy.encode()
        if state is not None and budget is not None:
            self.budget = budget
            self.asks[number], self.requests[copy] = pure.accepted(state, copy), number
            self.counted.update(["hedged"])

    @rule(most=st.integers(1, 3))
    def claim(self, most: int) -> None:
        reply = self.run_script(*commands.claim(self.keys, [QUEUE], LEVELS, "reader", most))
        for at in range(1, len(reply), 4):
            index, entry, raw, _ = reply[at : at + 4]
            stream = self.keys.stream(QUEUE, LEVELS[index - 4])
            self.held[json.loads(raw)["headers"]["id"]] = stream, entry.decode()

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        how=st.sampled_from(["handled", "dead", "late", "expired", "letter", "late letter", "retry", "twice"]),
    )
    def settle(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        (stream, entry), k = self.held.pop(number), self.keys
        ended = {"letter": "dead", "late": "dead", "late letter": "dead", "twice": "handled"}.get(how, how)
        reason = "deadline passed" if how.startswith("late") else "timeout"
        if how.endswith("letter"):
            letter = json.dumps({"queue": QUEUE, "reason": reason})
            outcome = json.dumps({"outcome": ended, "reason": reason})
            call = commands.dead_letter(
                k, QUEUE, stream, entry, letter, reason, "ValueError", delivery=number, outcome=outcome, ttl_ms=TTL_MS
            )
        elif how == "retry":
            call = commands.retry(
                k, QUEUE, stream, entry, f"0|{number}", message(number), 0, ttl_ms=TTL_MS, delivery=number
            )
        else:
            outcome = json.dumps({"outcome": ended, "result": 'a "quoted" \\ é', "reason": reason})
            call = commands.settle_with_outcome(
                stream, k.ledger(QUEUE), k.outcome(number), entry, ended, outcome, TTL_MS
            )
        for _ in range(2 if how == "twice" else 1):
            self.run_script(*call)
        if how == "retry" and not self.redis.exists(k.outcome(number)):
            return
        # One that was cancelled while it was held ends with its attempt, whatever that came to.
        self.end(number, "cancelled" if how == "retry" else ended, is_late=how.startswith("late"))

    def end(self, copy: str, ended: str, *, is_late: bool = False) -> None:
        self.ended.add(copy)
        number = self.requests[copy]
        self.asks[number], ending = pure.outcome_recorded(self.asks[number], copy, ended, is_late=is_late)
        self.came_to(number, ending)

    def came_to(self, number: str, ending: Ending | None) -> None:
        """An ask has ended; its copies are cancelled."""
        if ending is None:
            return
        self.endings[number] = ending
        self.in_flight.pop(number, None)
        for copy in ending.cancelled:
            if self.redis.exists(self.keys.outcome(copy)):
                # It waited, and does not any more.
                assert copy not in self.held
                self.ended.add(copy)
            else:
                assert self.redis.hexists(self.keys.outcome_hooks(copy), "cancel")

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), is_time=st.booleans())
    def end_ask(self, data: st.DataObject, is_time: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.asks)))
        before = self.asks[number]
        self.asks[number], ending = pure.time_came(before, self.now) if is_time else pure.given_up(before)
        assert self.run_script(*commands.end_ask(self.keys, number, "time" if is_time else "give up")) == (
            ending is not None
        )
        self.came_to(number, ending)

    @rule()
    def look_for_timers(self) -> None:
        due = self.run_script(*commands.due_timers(self.keys, skip=0, most=100))
        late = {n for n, state in self.asks.items() if state is not None and state.due_ms <= self.now}
        assert {raw.decode() for raw in due} == {f"ask:{number}" for number in late}

    @rule(passed_ms=st.sampled_from([1, 99, 300, 5000]))
    def time_passes(self, passed_ms: int) -> None:
        self.now += passed_ms
        self.scripts.set(self.now)

    # -- what must hold

    @invariant()
    def there_is_one_reply_for_each_ask_that_has_ended(self) -> None:
        entries: Any = self.redis.xrange(self.keys.stream(ASKER, "0"))
        replies = [json.loads(fields[b"m"]) for _, fields in entries]
        ended = {number: ending for number, ending in self.endings.items() if ending.is_replied}
        assert sorted(reply["id"] for reply in replies) == sorted(ended)
        for reply in replies:
            assert json.loads(reply["body"])["outcome"] == ended[reply["id"]].ended
        assert int(self.redis.hget(self.keys.ledger(ASKER), "accepted") or 0) == len(ended)

    @invariant()
    def nothing_is_left_of_asks_that_have_ended(self) -> None:
        still = sorted(number for number, state in self.asks.items() if state is not None)
        assert sorted(key.decode() for key in self.redis.keys(self.keys.ask("*"))) == [
            self.keys.ask(number) for number in still
        ]
        assert self.redis.zcard(self.keys.timers) == len(still)
        for number in self.ended:
            assert not self.redis.exists(self.keys.outcome_hooks(number))

    @invariant()
    def what_is_in_flight_is_what_has_not_ended(self) -> None:
        known = self.redis.zrangebyscore(self.keys.bulkhead(QUEUE), f"({self.now}", "+inf", withscores=True)
        assert {raw.decode(): int(due) for raw, due in known} == bulkhead.in_flight(self.in_flight, self.now)

    @invariant()
    def each_is_counted_once(self) -> None:
        counted = {name.decode(): int(n) for name, n in self.redis.hgetall(self.keys.calls(QUEUE)).items()}
        assert counted.pop("budget", call_budget.START) == self.budget
        assert counted.pop("over_budget", 0) == self.refused
        ended = [ending.ended for ending in self.endings.values()]
        assert counted == {**self.counted, **Counter(ended)}
        # What is never exceeded.
        spent = self.counted["retried"] + self.counted["hedged"]
        assert spent <= call_budget.START / 100 + self.counted["asked"] / 10

    @invariant()
    def no_request_is_lost(self) -> None:
        row = {name.decode(): int(n) for name, n in self.redis.hgetall(self.keys.ledger(QUEUE)).items()}
        waiting = sum(self.redis.xlen(self.keys.stream(QUEUE, level)) for level in LEVELS)
        waiting += self.redis.zcard(self.keys.delayed(QUEUE))
        ends = sum(row.get(name, 0) for name in ("handled", "dead", "expired", "cancelled"))
        assert row.get("accepted", 0) == waiting + ends == len(self.requests)


def test_the_scripts_asks_are_the_pure_ones(own_redis_server: EmbeddedServer) -> None:
    Asks.url = own_redis_server.url
    drive_machine(Asks, "ASK_EXAMPLES", examples=30)


#: In a script: what is right, and what is not.
FAULTS = {
    "a reply is lost": Fault("put(ask.stream, ask.before .. within_text(outcome) .. ask.after)", ""),
    "an ask ends twice": Fault("return false end\n  redis.call('DEL', key)", "return false end"),
    "the budget is exceeded": Fault("if call_budget(calls) >= BUDGET_PRICE", "if call_budget(calls) >= 0"),
    "a request too many is in flight": Fault("if count >= most then return count", "if count > most then return count"),
    "the time is over at once": Fault("or math.huge) then return 0 end", "or math.huge) then local _ = 0 end"),
    "what is given up is replied": Fault("asks.finish(ask, 'given_up')", "asks.finish(ask, 'given_up', '{}')"),
    "the other copies run on": Fault("if copy[1] ~= winner then", "if false then"),
    "a held copy is not marked": Fault("redis.call('HSET', hooks, 'cancel', ", "redis.call('HSET', hooks, 'x', "),
    "the time outlives its ask": Fault("redis.call('ZREM', root .. 'timers', 'ask:' .. id)", ""),
    "a place in flight outlives its request": Fault("if ask.bulkhead then leave_bulkhead(ask.bulkhead, id) end", ""),
    "a retry costs nothing": Fault("call_budget(calls) - BUDGET_PRICE", "call_budget(calls)"),
    "what was not sent is taken for sent": Fault(
        "if why_not then\n  forget_publish(publishes, token)",
        "if why_not then",
    ),
    "a repeated request is accepted twice": Fault("if last == token then return delivery end", ""),
    "repeated requests are accepted twice": Fault("if last == token then return count end", ""),
    "what its deadline has ended has failed": Fault(
        "return asks.time_out(key, copy)", "return asks.finish(key, ended, outcome, copy)"
    ),
    "a reply is not counted": Fault("count_accepted(ask.ledger, 1)", ""),
    "hooks are left of a request": Fault("redis.call('HDEL', hooks, 'ask')", ""),
    "an ask of many never times out": Fault("redis.call(unpack(due))", ""),
    "the time is never over": Fault(
        "if now_ms() < tonumber(redis.call('ZSCORE'",
        "if 0 < tonumber(redis.call('ZSCORE'",
    ),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=2))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    Asks.url = own_redis_server.url
    assert_finds(Asks, FAULTS[fault], examples=100)
