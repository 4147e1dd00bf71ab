"""A hypothesis state machine: monitors against a model, on a real Redis, with sweepers that die in the middle.

The dead are cleaned up in steps of random size, and other things happen in between. Whatever the order, every monitor
ends in exactly one way, and nothing dangles at any step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from orchestrator.core.errors import OwnerGone
from orchestrator.embedded import EmbeddedServer
from orchestrator.monitors import commands
from orchestrator.monitors.check import inconsistencies
from orchestrator.monitors.leak import LeakKind
from orchestrator.worker.execution.owner import Owner
from tests.support.driven_machine import drive_machine
from tests.support.monitors_under_test import RedisUnderTest
from tests.support.planted_faults import Fault, assert_finds, cases

REASONS = ("killed", "oom", "drained")


@dataclass
class Life:
    """An incarnation in the model. Sessions own monitors and have no agent."""

    id: str
    session: bool
    #: When it was fenced; 0 while it lives.
    fenced: int = 0
    reason: str = ""

    @property
    def owner(self) -> Owner:
        return Owner(self.id, "" if self.session else "watcher")


@dataclass
class Watched:
    """A monitor in the model."""

    ref: int
    owner: Life
    on: list[Life]
    removed: bool = False
    settled: bool = False

    @property
    def ending(self) -> bool:
        return bool(self.owner.fenced) or all(life.fenced for life in self.on)


@dataclass
class Model:
    lives: list[Life] = field(default_factory=list)
    monitors: dict[int, Watched] = field(default_factory=dict)
    clock: int = 0


class Monitoring(RuleBasedStateMachine):
    """Owners, targets, monitors, deaths."""

    ground: ClassVar[RedisUnderTest]
    everyone = Bundle("everyone")
    refs = Bundle("refs")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.inboxes: dict[str, list[bytes]] = {}

    @property
    def monitors(self) -> Any:
        return self.ground.monitors

    @initialize(target=everyone)
    def begin(self) -> Any:
        """Each of two owners monitors a target, both, and the other owner, so that any death has consequences."""
        # The counter goes on: by its value the library knows whether what it has read of incarnations still holds.
        counter = self.ground.store.keys.incarnation_counter
        joined = self.ground.redis.get(counter) or 0
        self.ground.loses_replies = False
        self.ground.redis.flushall()
        self.ground.redis.set(counter, joined)
        watcher, session, *targets = (self._joined(agent) for agent in ("watcher", "session", "target", "target"))
        for owner, other in ((watcher, session), (session, watcher)):
            for on in (targets[0], other):
                self._made(owner, on.id, [on], 0, 1)
            self._made(owner, "target", targets, "all")
        return multiple(watcher, session, *targets)

    @rule(target=everyone, agent=st.sampled_from(["watcher", "target", "session"]))
    def join(self, agent: str) -> Life:
        """Also: an agent is back as another incarnation."""
        return self._joined(agent)

    def _joined(self, agent: str) -> Life:
        life = Life(self.ground.join(agent), agent == "session")
        self.model.lives.append(life)
        return life

    # -- monitors

    @rule(lost=st.booleans())
    def replies_are_lost(self, lost: bool) -> None:
        """From now on each call is repeated, or not any more."""
        self.ground.loses_replies = lost

    @rule(target=refs, owner=everyone, on=everyone, tag=st.integers(0, 2))
    def monitor(self, owner: Life, on: Life, tag: int) -> Any:
        return self._made(owner, on.id, [on], tag)

    @rule(target=refs, owner=everyone)
    def monitor_agent(self, owner: Life) -> Any:
        living = [life for life in self.model.lives if "target@" in life.id and not life.fenced]
        return self._made(owner, "target", living, "all")

    @rule(target=refs, owner=everyone, on=everyone, many=st.integers(2, 5))
    def monitor_many(self, owner: Life, on: Life, many: int) -> Any:
        return self._made(owner, on.id, [on], *range(many))

    def _made(self, owner: Life, target: str, on: list[Life], *tags: Any) -> Any:
        try:
            refs = self.monitors.monitor_many([(target, tag) for tag in tags], owner=owner.owner)
        except OwnerGone:
            assert owner.fenced
            return multiple()
        assert not owner.fenced
        at_once = all(life.fenced for life in on)
        for ref in refs:
            assert ref not in self.model.monitors
            self.model.monitors[ref] = Watched(ref, owner, on, settled=at_once)
        if at_once:
            reasons = self._reasons()
            assert [reasons.get(ref) for ref in refs] == ["noproc"] * len(refs), "it comes at once"
        return multiple(*refs)

    @rule(ref=refs, flush=st.booleans(), is_lost=st.booleans())
    def demonitor(self, ref: int, flush: bool, is_lost: bool) -> None:
        watched = self.model.monitors[ref]
        lost_before, self.ground.loses_replies = self.ground.loses_replies, is_lost or self.ground.loses_replies
        there = self.monitors.demonitor(ref, flush=flush)
        self.ground.loses_replies = lost_before
        if there:
            assert not watched.settled
            assert not self._downs()[ref]
            watched.removed = watched.settled = True
        else:
            assert watched.settled or watched.ending
            assert self.monitors.is_flushed(ref) or not flush

    # -- deaths

    @rule(who=everyone, reason=st.sampled_from(REASONS), steps=st.integers(0, 3), batch=st.integers(1, 2))
    def die(self, who: Life, reason: str, steps: int, batch: int) -> None:
        """It is fenced, and whoever should clean up is killed, at once or in the middle."""
        if not who.fenced:
            self.model.clock += 1
            who.fenced, who.reason = self.model.clock, reason
            self._look()
            self.ground.fence(who.id, reason)
            self._clean_some(who, steps, batch)

    @rule(at=st.integers(0, 9), owner_first=st.booleans())
    def both_ends_die(self, at: int, owner_first: bool) -> None:
        """Of two deaths, the target's is dealt with, and the owner's not yet."""
        living = [m for m in self.model.monitors.values() if not m.settled and not m.owner.fenced and len(m.on) == 1]
        living = [m for m in living if not m.on[0].fenced and m.on[0] is not m.owner]
        if living:
            watched = living[at % len(living)]
            if owner_first:
                self.die(watched.owner, "killed", 0, 1)
                self.die(watched.on[0], "killed", 9, 2)
            else:
                self.die(watched.on[0], "killed", 0, 1)
                self.die(watched.owner, "killed", 0, 1)
                self._clean_some(watched.on[0], 9, 2)

    @rule(who=everyone, steps=st.integers(1, 3), batch=st.integers(1, 2))
    def crash_in_the_middle(self, who: Life, steps: int, batch: int) -> None:
        """A sweeper cleans up for a few steps, and is killed."""
        self._clean_some(who, steps, batch)

    def _clean_some(self, who: Life, steps: int, batch: int) -> None:
        if not who.fenced:
            return
        k, m = self.ground.store.keys, self.monitors
        more = 1
        for _ in range(steps):
            if more:
                _, more = m.run(*commands.owner_died(k, who.id, batch))
            else:
                m.run(*commands.target_died(k, m.down_sending, who.id, who.reason, batch))

    @rule()
    def sweep(self) -> None:
        """All that was begun is done."""
        for life in self.model.lives:
            if life.fenced:
                assert self.monitors.on_death(life.id, life.reason)
        downs, reasons = self._downs(), self._reasons()
        for watched in self.model.monitors.values():
            if watched.settled or not watched.ending:
                continue
            watched.settled = True
            all_dead = all(life.fenced for life in watched.on)
            if not watched.owner.fenced:
                assert downs[watched.ref] == 1
            elif not all_dead or max(life.fenced for life in watched.on) > watched.owner.fenced:
                assert downs[watched.ref] == 0, "nobody is told after its own death"
            if downs[watched.ref]:
                assert reasons[watched.ref] in {life.reason for life in watched.on}
        active = {ref for ref, watched in self.model.monitors.items() if not watched.settled}
        assert {entry.ref for entry in self.monitors.list(limit=10_000)} == active
        assert inconsistencies(self.monitors) == []
        k, redis = self.ground.store.keys, self.ground.redis
        active_ones = [watched for watched in self.model.monitors.values() if not watched.settled]
        owners = {watched.owner.id for watched in active_ones}
        targets = {life.id for watched in active_ones for life in watched.on if not life.fenced}
        assert {raw.decode() for raw in redis.smembers(k.monitor_owners)} == owners
        assert {raw.decode() for raw in redis.smembers(k.monitor_targets)} == targets
        dead = [life.id for life in self.model.lives if life.fenced]
        assert not redis.exists(*(key(one) for one in dead for key in (k.downs, k.monitors_of, k.monitors_on)), "none")

    # -- at every step

    @invariant()
    def each_has_one_down_at_most_and_none_once_removed(self) -> None:
        self._look()
        downs = self._downs()
        assert set(downs.values()) <= {1}
        for ref in downs:
            watched = self.model.monitors[ref]
            assert not watched.removed
            assert all(life.fenced for life in watched.on)

    @invariant()
    def what_lives_is_there_and_whole(self) -> None:
        downs = self._downs()
        there = {int(ref) for ref in self.ground.redis.hkeys(self.ground.store.keys.monitors)}
        for ref, watched in self.model.monitors.items():
            if not watched.settled and not watched.ending:
                assert ref in there
            if watched.settled or downs[ref]:
                assert ref not in there
        leaks = self.monitors.find_leaks(age_s=3600)
        assert {leak.kind for leak in leaks} <= {LeakKind.DUPLICATE}
        accepted = self.ground.redis.hget(self.ground.store.keys.ledger("watcher"), "accepted")
        assert int(accepted or 0) == len(self.ground.messages())
        stats = self.monitors.stats()
        assert stats.created == stats.active + stats.cleaned == len(self.model.monitors)

    def _look(self) -> None:
        """Inboxes go with their sessions, so what was in them is remembered."""
        for life in self.model.lives:
            if life.session:
                inbox = self.ground.redis.lrange(self.ground.store.keys.downs(life.id), 0, -1)
                if len(inbox) > len(self.inboxes.get(life.id, ())):
                    self.inboxes[life.id] = inbox

    def _all(self) -> list[Any]:
        self._look()
        return [
            *((d.ref, d.reason) for d in self.ground.heard()),
            *((d["ref"], d["reason"]) for inbox in self.inboxes.values() for d in map(json.loads, inbox)),
        ]

    def _downs(self) -> Counter[int]:
        return Counter(ref for ref, _ in self._all())

    def _reasons(self) -> dict[int, str]:
        return dict(self._all())


@pytest.fixture
def machine(own_redis_server: EmbeddedServer) -> Iterator[type[Monitoring]]:
    """The machine, over a Redis of its own."""
    Monitoring.ground = RedisUnderTest(own_redis_server.url)
    yield Monitoring
    Monitoring.ground.close()


def test_monitors_are_what_the_model_says(machine: type[Monitoring]) -> None:
    drive_machine(machine, "MONITOR_EXAMPLES", examples=20, steps=20)


#: In a script: what is right, and what is not.
FAULTS = {
    "a DOWN is lost": Fault("put(made.stream, table.concat(pieces))", ""),
    "a DOWN comes twice": Fault(
        "    downs = downs + 1",
        "    down(work, ref, m, reason)\n    downs = downs + 1",
    ),
    "the dead are told": Fault("if lives(work, m.owner) then\n    down", "if true then\n    down"),
    "monitors outlive their owner": Fault("unlink(work, ended)\nlocal removed", "local removed"),
    "the end of one of an agent's incarnations is the agent's": Fault("if #left > 0 then", "if false then"),
    "a monitor stays among those on its target": Fault(
        "for id, members in pairs(on) do",
        "for id, members in pairs({}) do",
    ),
    "a monitor that was removed stays": Fault("unlink(work, {ref, m})", ""),
    "a DOWN has another reason": Fault("    down(work, ref, m, reason)\n", "    down(work, ref, m, 'lost')\n"),
    "who monitors what is dead waits for ever": Fault("if #m.left == 0 then", "if #m.left < 0 then"),
    "what was removed is not counted": Fault("count(work, 'manual', 1)", ""),
    "the DOWN of what was removed is not flushed": Fault("redis.call('SET', flushed, '1', 'PX', keep_ms)", ""),
    "the dead own monitors": Fault("if not redis.call('ZSCORE', root .. 'leases', owner) then return {-1} end", ""),
    "a monitor whose reply was lost is made twice": Fault("if known and known[1] == call then return known[2] end", ""),
    "a monitor whose reply was lost was never removed": Fault("if answered then return answered end", ""),
    "an inbox outlives its session": Fault("redis.call('UNLINK', inbox)", ""),
    "the names of empty sets stay": Fault(
        "if redis.call('EXISTS', sets[i]) == 0 then",
        "if false then",
    ),
    "a message is not counted as accepted": Fault(
        "root .. 'ledger:' .. agent, 'accepted'",
        "root .. 'ledger:' .. agent, 'x'",
    ),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=5))
def test_the_machine_finds_a_planted_fault(machine: type[Monitoring], fault: str) -> None:
    assert_finds(machine, FAULTS[fault], examples=100, steps=20)
