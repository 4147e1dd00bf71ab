"""The machine of schedules: schedulers over one Redis, in any order: each crashes, loses answers, is overtaken.

Redis' clock goes forth and back, schedules are edited and paused meanwhile, outcomes are recorded, Redis is set back to
an earlier moment. No nominal time is fired under two ids, none is fired twice, and the ledger balances.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.core.schedules.definition_json import decode_definition
from orchestrator.core.schedules.rule import decide
from orchestrator.core.schedules.state import delivery_id_of
from orchestrator.core.schedules.values import Misfire, Overlap
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.firing.one_pass import AGAIN_MS, Firing
from orchestrator.schedules.redis.scripts import Advance
from orchestrator.schedules.redis.stored_state import state_from
from orchestrator.transport.redis import commands
from tests.support.redis_clock import KEY
from tests.support.schedules_under_test import Reconcile, Schedules
from tests.support.weighted_moves import WeightedMachine, move

START_MS = 1_800_000_000_000

SCHEDULERS = ("a", "b", "c")

#: Of more entries, the history may have lost the oldest.
MOST_HISTORY = 900

MOST_SCHEDULES = 4

#: Field of a schedule's state -> what it counts.
COUNTS = {"f": "fired", "c": "coalesced", "m": "missed", "k": "skipped"}


@dataclass
class Known:
    """A schedule, as its user has declared it."""

    every_s: float
    overlap: Overlap
    pauses: bool
    grace_s: float | None
    is_paused: bool = False
    #: How often it was changed or advanced.
    changes: int = 0


@dataclass
class Decided:
    """What a scheduler has decided, and how often the schedule had been changed then; -1: nobody knows."""

    advance: Advance
    changes: int


def a_name(machine: Machine) -> st.SearchStrategy[str]:
    """A schedule, or one that was."""
    return st.sampled_from(sorted(machine.known) * 4 + sorted(machine.removed))


def has_names(machine: Machine) -> bool:
    """Whether there is one."""
    return bool(machine.known)


def with_decisions(machine: Machine) -> st.SearchStrategy[str]:
    """A scheduler that has decided something."""
    return st.sampled_from([name for name in SCHEDULERS if machine.decided[name]])


class Machine(WeightedMachine):
    """See the module."""

    schedules: Schedules
    firing: Mapping[str, Firing]

    @initialize()
    def begin(self) -> None:
        self.redis = self.schedules.redis
        self.redis.flushdb()
        self.keys = self.schedules.keys
        self.now_ms = START_MS
        self.redis.set(KEY, self.now_ms)
        self.known: dict[str, Known] = {}
        self.removed: set[str] = set()
        #: What each has decided and not yet sent.
        self.decided: dict[str, list[Decided]] = {name: [] for name in SCHEDULERS}
        self.count = 0
        #: Deliveries that have an outcome.
        self.settled: set[str] = set()
        self.saved: tuple[dict[bytes, bytes], dict[str, Known], set[str]] | None = None

    # -- users

    @move(
        2,
        when=lambda self: len(self.known) < MOST_SCHEDULES,
        every_s=st.sampled_from([0.5, 1.0, 7.0]),
        misfire=st.sampled_from(list(Misfire)),
        overlap=st.sampled_from(list(Overlap)),
        grace_s=st.sampled_from([None, 2.0]),
        pauses=st.booleans(),
    )
    def add(self, every_s: float, misfire: Misfire, overlap: Overlap, grace_s: float | None, pauses: bool) -> None:
        self.count += 1
        name = f"s{self.count}"
        self.schedules.orchestrator.schedules.add(
            name,
            "ledgers",
            Reconcile(),
            every_s=every_s,
            misfire=misfire,
            overlap=overlap,
            misfire_grace_s=grace_s,
            pause_on_failure=pauses,
        )
        self.known[name] = Known(every_s, overlap, pauses, grace_s)

    @move(when=has_names, name=a_name, every_s=st.sampled_from([1.0, 3.0]))
    def edit(self, name: str, every_s: float) -> None:
        if known := self.known.get(name):
            self.schedules.orchestrator.schedules[name].update(every_s=every_s)
            known.changes += known.every_s != every_s
            known.every_s = every_s

    @move(when=has_names, name=a_name, grace_s=st.sampled_from([3.0, 4.0]))
    def edit_grace(self, name: str, grace_s: float) -> None:
        """An edit that leaves the next time as it is."""
        if known := self.known.get(name):
            self.schedules.orchestrator.schedules[name].update(misfire_grace_s=grace_s)
            known.changes += known.grace_s != grace_s
            known.grace_s = grace_s

    @move(when=has_names, name=a_name)
    def pause(self, name: str) -> None:
        if known := self.known.get(name):
            self.schedules.orchestrator.schedules[name].pause("a test")
            known.changes += not known.is_paused
            known.is_paused = True

    @move(2, when=has_names, name=a_name, catch_up=st.booleans())
    def resume(self, name: str, catch_up: bool) -> None:
        if known := self.known.get(name):
            self.schedules.orchestrator.schedules[name].resume(catch_up=catch_up)
            known.changes += known.is_paused
            known.is_paused = False

    @move(when=has_names, name=a_name)
    def remove(self, name: str) -> None:
        self.schedules.orchestrator.schedules[name].remove()
        if self.known.pop(name, None):
            self.removed.add(name)

    # -- time

    @move(3, by_ms=st.sampled_from([10, 400, 1000, 3000, 9000]))
    def time_passes(self, by_ms: int) -> None:
        self._set(self.now_ms + by_ms)

    @move(by_ms=st.sampled_from([1000, 5000]))
    def clock_goes_back(self, by_ms: int) -> None:
        self._set(self.now_ms - by_ms)

    def _set(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.redis.set(KEY, now_ms)

    # -- schedulers

    @move(2, who=st.sampled_from(SCHEDULERS))
    def read(self, who: str) -> None:
        """Read and decide; what happens until it sends that is up to the machine."""
        # As after a stop longer than its turn.
        self.redis.hdel(self.schedules.keys.scheduler, "of", "until_ms")
        firing = self.firing[who]
        (reply,) = firing._run([firing._due_call(0, "mark", 50)])
        due = Due.of(reply)
        decided = firing._decide_all(due.now_ms, due.schedules)
        self.decided[who] = [Decided(one, self.known[one.id].changes) for one in decided]

    @move(3, when=lambda self: any(self.decided.values()), who=with_decisions, again=st.booleans())
    def send(self, who: str, again: bool) -> None:
        """Send what was decided. If the answer is lost, it may be sent once more."""
        firing, decided = self.firing[who], self.decided[who]
        for _ in range(1 + again):
            names = [one.advance.id for one in decided]
            before = {name: (self.schedules.state(name), self._due_ms(name)) for name in names}
            calls = list(firing._fire_calls([one.advance for one in decided]))
            statuses = [status.decode() for reply in firing._run(calls) for status in reply[1:]] if calls else []
            for one, status in zip(decided, statuses, strict=True):
                self._sent(one, status, *before[one.advance.id])
        self.decided[who] = []

    def _sent(self, decided: Decided, status: str, before: Mapping[str, str], was_due_ms: int | None) -> None:
        """What became of a decision is what it says, and nothing if the schedule was changed meanwhile."""
        advance, known = decided.advance, self.known.get(decided.advance.id)
        after, due_ms = self.schedules.state(advance.id), self._due_ms(advance.id)
        if status == "mailbox full":
            assert after == {**before, "g": "mailbox full"}
            assert due_ms == self.now_ms + AGAIN_MS
        elif status not in ("fired", "advanced"):
            assert after == before
        else:
            assert known is not None
            assert decided.changes in (-1, known.changes), "it was changed meanwhile"
            known.changes += 1
            assert all(after.get(name, "") == str(value) for name, value in advance.change.fields.items())
            assert due_ms == advance.due_ms
            counted = Counter({field: int(before.get(field, 0)) for field in COUNTS})
            for field, by, _ in advance.change.counts:
                counted[field] += by
            assert all(int(after.get(field, 0)) == counted[field] for field in COUNTS)
            assert was_due_ms is not None
            assert was_due_ms <= self.now_ms, "ahead of its time"
            assert (status == "fired") is (advance.message is not None)

    def _due_ms(self, name: str) -> int | None:
        due = self.redis.zscore(self.keys.schedules_due, name)
        return None if due is None else int(due)

    @move(when=lambda self: any(self.decided.values()), who=with_decisions)
    def crash(self, who: str) -> None:
        self.decided[who] = []

    @move(
        3,
        when=has_names,
        who=st.sampled_from(SCHEDULERS),
        by=st.sampled_from(["edit", "grace", "pause", "clock", "clock"]),
    )
    def be_overtaken(self, who: str, by: str) -> None:
        """What was decided is out of date when it is sent; without this, few examples come to that."""
        self.time_passes(3000)
        self.read(who)
        for name in self.known:
            if by == "edit":
                self.edit(name, 1.0)
                self.edit(name, 3.0)
            elif by == "grace":
                self.edit_grace(name, 4.0)
                self.edit_grace(name, 3.0)
            elif by == "pause":
                self.pause(name)
                self.resume(name, catch_up=True)
        if by == "clock":
            self.clock_goes_back(5000)
        self.send(who, again=False)

    @move(when=has_names, who=st.sampled_from(SCHEDULERS))
    def two_times_come(self, who: str) -> None:
        """Of some schedules, the second waits for the first."""
        for _ in range(2):
            self.time_passes(3000)
            self.pass_once(who)

    @move(3, who=st.sampled_from(SCHEDULERS))
    def pass_once(self, who: str) -> None:
        self.redis.hdel(self.schedules.keys.scheduler, "of", "until_ms")
        before = {name: self.schedules.state(name) for name in self.known}
        self.firing[who].pass_once(0, "mark")
        for name, known in self.known.items():
            known.changes += any(before[name].get(field) != self.schedules.state(name).get(field) for field in "nqu")
            definition = decode_definition(name, self.redis.hget(self.keys.schedules, name))
            state = state_from(self.schedules.state(name), self._due_ms(name))
            if state.due_ms is not None and state.due_ms <= self.now_ms:
                assert decide(definition, state, self.now_ms).state == state, "it is due, and nobody has decided"

    @move(2, limit=st.sampled_from([0, 3, 3]))
    def the_mailbox_has_a_bound(self, limit: int) -> None:
        """It may be full from now on, or never."""
        self.redis.delete(self.keys.flow("ledgers"))
        if limit:
            fields = {"root": self.keys.root, "queue": "ledgers", "levels": " ".join(self.schedules.store.levels),
                      "group": self.schedules.store.group, "limit": limit, "overflow": "reject"}  # fmt: skip
            self.redis.hset(self.keys.flow("ledgers"), mapping=fields)

    @move(
        when=lambda self: self.known and len(self.known) < MOST_SCHEDULES,
        who=st.sampled_from(SCHEDULERS),
        overlap=st.sampled_from(list(Overlap)),
        pauses=st.booleans(),
    )
    def the_mailbox_is_full(self, who: str, overlap: Overlap, pauses: bool) -> None:
        """What is due is refused; without this, few examples come to that."""
        self.two_times_come(who)
        self.the_mailbox_has_a_bound(max(1, len(self.schedules.ids())))
        # Those from before may wait for their messages.
        self.add(1.0, Misfire.COALESCE, overlap, None, pauses)
        self.two_times_come(who)

    # -- workers

    @move(3, outcome=st.sampled_from(["handled", "dead"]), most=st.sampled_from([1, 1, 50]))
    def settle(self, outcome: str, most: int) -> None:
        k, store = self.schedules.keys, self.schedules.store
        stream = k.stream("ledgers", store.levels[1])
        if not self.redis.exists(stream):
            return
        if not any(group["name"] == store.group.encode() for group in self.redis.xinfo_groups(stream)):
            self.redis.xgroup_create(stream, store.group, id="0")
        for _, entries in self.redis.xreadgroup(store.group, "worker", {stream: ">"}, count=most):
            for entry, fields in entries:
                delivery = json.loads(fields[b"m"])["headers"]["id"]
                text = json.dumps({"outcome": outcome})
                known = next((name for name, _, of in self._fires() if of == delivery and name in self.known), None)
                store.run(
                    *commands.settle_with_outcome(
                        stream, k.ledger("ledgers"), k.outcome(delivery), entry.decode(), outcome, text, 60_000
                    )
                )
                self.settled.add(delivery)
                assert not self.redis.exists(k.outcome_hooks(delivery))
                if known is not None:
                    self._ended(known, delivery, is_handled=outcome == "handled")

    @move(
        2,
        when=lambda self: any(known.pauses and not known.is_paused for known in self.known.values()),
        who=st.sampled_from(SCHEDULERS),
        outcome=st.sampled_from(["handled", "dead", "dead"]),
    )
    def fire_and_settle(self, who: str, outcome: str) -> None:
        """All that was fired ends, and for some of it the next time waits.

        Without this, few examples come to a schedule that its failure pauses.
        """
        for _ in range(2):
            self.time_passes(9000)
            self.pass_once(who)
        self.settle(outcome, 50)

    def _ended(self, name: str, delivery: str, *, is_handled: bool) -> None:
        known, state = self.known[name], self.schedules.state(name)
        assert state.get("u") != delivery
        if known.pauses and not is_handled:
            # An edit keeps what a fire before it was to do.
            known.changes += not known.is_paused
            known.is_paused = True
            assert "q" not in state
        if "q" in state and "u" not in state:
            due_ms = self._due_ms(name)
            assert due_ms is not None
            assert due_ms <= self.now_ms, "nobody would fire what waits"

    # -- Redis

    @move()
    def save(self) -> None:
        """A moment to which Redis may be set back."""
        self.saved = (
            {key: self.redis.dump(key) for key in self.redis.keys("*")},
            deepcopy(self.known),
            set(self.settled),
        )

    @move(when=lambda self: self.saved is not None)
    def roll_back(self) -> None:
        """Redis forgets what came after that moment, as after a crash with appendfsync everysec."""
        if self.saved is None:
            return
        dumped, known, settled = self.saved
        self.known, self.settled = deepcopy(known), set(settled)
        for decided in self.decided.values():
            for one in decided:
                one.changes = -1
        self.redis.flushdb()
        for key, value in dumped.items():
            if value is not None:
                self.redis.restore(key, 0, value)
        self.redis.set(KEY, self.now_ms)

    # -- what must hold

    def _fires(self) -> list[tuple[str, int, str]]:
        return [
            (entry["s"], int(entry["n"]), entry["d"]) for entry in self.schedules.history() if entry["a"] == "fired"
        ]

    @invariant()
    def fires_are_unique(self) -> None:
        if not hasattr(self, "redis"):
            return
        fires = self._fires()
        assert not [one for one, count in Counter(fires).items() if count > 1]
        for name, nominal_ms, delivery in fires:
            assert delivery == delivery_id_of(name, nominal_ms)
        ids = self.schedules.ids()
        assert len(set(ids)) == len(ids)
        if len(fires) < MOST_HISTORY:
            assert {*ids, *self.settled} == {delivery for _, _, delivery in fires}
        hooks = {key.decode() for key in self.redis.keys(self.keys.outcome_hooks("*"))}
        assert hooks <= {self.keys.outcome_hooks(delivery) for delivery in ids}

    @invariant()
    def ledger_balances(self) -> None:
        if not hasattr(self, "redis"):
            return
        of = self.schedules.ledger()
        assert of.get("due", 0) == sum(of.get(name, 0) for name in ("fired", "coalesced", "missed", "skipped"))
        accepted = int(self.redis.hget(self.schedules.keys.ledger("ledgers"), "accepted") or 0)
        assert of.get("fired", 0) == accepted

    @invariant()
    def the_history_has_what_is_counted(self) -> None:
        counted: Counter[tuple[str, str]] = Counter()
        history = self.schedules.history() if hasattr(self, "redis") else []
        if len(history) >= MOST_HISTORY:
            return
        for entry in history:
            counted[entry["s"], entry["a"]] += int(entry.get("c", 1))
        for name in getattr(self, "known", ()):
            state = self.schedules.state(name)
            assert [int(state.get(field, 0)) for field in COUNTS] == [counted[name, what] for what in COUNTS.values()]

    @invariant()
    def what_is_due_is_what_goes_on(self) -> None:
        if not hasattr(self, "redis"):
            return
        states = [key.decode() for key in self.redis.keys(self.keys.schedule("*"))]
        assert sorted(states) == sorted(self.keys.schedule(name) for name in self.known)
        for name, known in self.known.items():
            state = self.schedules.state(name)
            assert ("p" in state) is known.is_paused
            goes_on = not known.is_paused and ("n" in state or ("q" in state and "u" not in state))
            assert (self._due_ms(name) is not None) is goes_on
