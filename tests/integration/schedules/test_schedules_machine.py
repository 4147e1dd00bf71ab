"""Three schedulers over one Redis, in any order: each crashes between any two commands, loses answers, is overtaken.

Redis' clock goes forth and back, schedules are edited and paused meanwhile, outcomes are recorded, Redis is set back to
an earlier moment. No nominal time is fired under two ids, none is fired twice, and the ledger balances.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from orchestrator.core.schedule_state import delivery_id_of
from orchestrator.core.schedule_values import Misfire, Overlap
from orchestrator.embedded import EmbeddedServer
from orchestrator.schedules import scripts
from orchestrator.schedules.due import Due
from orchestrator.schedules.firing import Firing
from orchestrator.schedules.scripts import Advance
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import Script, command, resolve
from tests.support.redis_clock import CLOCK, KEY
from tests.support.schedules_under_test import Reconcile, Schedules, scheduling_app

START_MS = 1_800_000_000_000

SCHEDULERS = ("a", "b", "c")


def timed(name: str) -> Script:
    """A script of schedules that reads the time from a key."""
    package = "orchestrator.schedules"
    text = resolve(command(name, package), package, {"clock": CLOCK})
    return Script(text, hashlib.sha1(text).hexdigest())


class Machine(RuleBasedStateMachine):
    """See the module."""

    schedules: Schedules
    firing: Mapping[str, Firing]
    names = Bundle("names")

    @initialize()
    def begin(self) -> None:
        self.redis = self.schedules.redis
        self.redis.flushdb()
        self.now_ms = START_MS
        self.redis.set(KEY, self.now_ms)
        #: What each has decided and not yet sent.
        self.decided: dict[str, list[Advance]] = {name: [] for name in SCHEDULERS}
        self.count = 0
        self.saved: tuple[dict[bytes, bytes], int] | None = None

    # -- users

    @rule(
        target=names,
        every_s=st.sampled_from([0.5, 1.0, 7.0]),
        misfire=st.sampled_from(list(Misfire)),
        overlap=st.sampled_from(list(Overlap)),
        grace_s=st.sampled_from([None, 2.0]),
        pauses=st.booleans(),
    )
    def add(self, every_s: float, misfire: Misfire, overlap: Overlap, grace_s: float | None, pauses: bool) -> str:
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
        return name

    @rule(name=names, every_s=st.sampled_from([1.0, 3.0]))
    def edit(self, name: str, every_s: float) -> None:
        if name in self.schedules.orchestrator.schedules:
            self.schedules.orchestrator.schedules[name].update(every_s=every_s)

    @rule(name=names)
    def pause(self, name: str) -> None:
        if name in self.schedules.orchestrator.schedules:
            self.schedules.orchestrator.schedules[name].pause("a test")

    @rule(name=names, catch_up=st.booleans())
    def resume(self, name: str, catch_up: bool) -> None:
        if name in self.schedules.orchestrator.schedules:
            self.schedules.orchestrator.schedules[name].resume(catch_up=catch_up)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.schedules.orchestrator.schedules[name].remove()

    # -- time

    @rule(by_ms=st.sampled_from([10, 400, 1000, 3000, 9000]))
    def time_passes(self, by_ms: int) -> None:
        self._set(self.now_ms + by_ms)

    @rule(by_ms=st.sampled_from([1000, 5000]))
    def clock_goes_back(self, by_ms: int) -> None:
        self._set(self.now_ms - by_ms)

    def _set(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.redis.set(KEY, now_ms)

    # -- schedulers

    @rule(who=st.sampled_from(SCHEDULERS))
    def read(self, who: str) -> None:
        """Read and decide; what happens until it sends that is up to the machine."""
        # As after a stop longer than its turn.
        self.redis.hdel(self.schedules.keys.scheduler, "of", "until_ms")
        firing = self.firing[who]
        (reply,) = firing._run([firing._due_call(0, "mark", 50)])
        due = Due.of(reply)
        self.decided[who] = firing._decide_all(due.now_ms, due.schedules)

    @rule(who=st.sampled_from(SCHEDULERS), again=st.booleans())
    def send(self, who: str, again: bool) -> None:
        """Send what was decided. If the answer is lost, it may be sent once more."""
        firing, decided = self.firing[who], self.decided[who]
        calls = list(firing._fire_calls(decided))
        for _ in range(1 + again):
            if calls:
                firing._run(calls)
        self.decided[who] = []

    @rule(who=st.sampled_from(SCHEDULERS))
    def crash(self, who: str) -> None:
        self.decided[who] = []

    @rule(who=st.sampled_from(SCHEDULERS))
    def pass_once(self, who: str) -> None:
        self.redis.hdel(self.schedules.keys.scheduler, "of", "until_ms")
        self.firing[who].pass_once(0, "mark")

    # -- workers

    @rule(outcome=st.sampled_from(["handled", "dead"]))
    def settle(self, outcome: str) -> None:
        k, store = self.schedules.keys, self.schedules.store
        stream = k.stream("ledgers", store.levels[1])
        if not self.redis.exists(stream):
            return
        if not any(group["name"] == store.group.encode() for group in self.redis.xinfo_groups(stream)):
            self.redis.xgroup_create(stream, store.group, id="0")
        for _, entries in self.redis.xreadgroup(store.group, "worker", {stream: ">"}, count=1):
            for entry, fields in entries:
                delivery = json.loads(fields[b"m"])["headers"]["id"]
                text = json.dumps({"outcome": outcome})
                store.run(
                    *commands.settle_with_outcome(
                        stream, k.ledger("ledgers"), k.outcome(delivery), entry.decode(), outcome, text, 60_000
                    )
                )

    # -- Redis

    @rule()
    def save(self) -> None:
        """A moment to which Redis may be set back."""
        self.saved = {key: self.redis.dump(key) for key in self.redis.keys("*")}, self.now_ms

    @rule()
    def roll_back(self) -> None:
        """Redis forgets what came after that moment, as after a crash with appendfsync everysec."""
        if self.saved is None:
            return
        dumped, _ = self.saved
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
        assert set(ids) <= {delivery for _, _, delivery in fires}

    @invariant()
    def ledger_balances(self) -> None:
        if not hasattr(self, "redis"):
            return
        of = self.schedules.ledger()
        assert of.get("due", 0) == sum(of.get(name, 0) for name in ("fired", "coalesced", "missed", "skipped"))
        accepted = int(self.redis.hget(self.schedules.keys.ledger("ledgers"), "accepted") or 0)
        assert of.get("fired", 0) == accepted


@pytest.fixture
def machine(own_redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    """The machine over the shared server, with scripts that read the time from a key."""
    monkeypatch.setattr(scripts, "_script", timed)

    over = Schedules(scheduling_app(own_redis_server.url))

    class Over(Machine):
        schedules = over
        firing = {name: over.scheduler(name)._firing for name in SCHEDULERS}  # noqa: RUF012

    monkeypatch.setattr(over.orchestrator.runtime.redis.schedules, "now_ms", lambda: int(Over.schedules.redis.get(KEY)))
    return Over


def test_any_order_of_schedulers_edits_and_losses(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    machine.schedules.app.close()
