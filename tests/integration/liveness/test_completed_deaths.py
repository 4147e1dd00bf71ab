"""Whoever finds a death first: how the process has ended is on record once its parent has recorded it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.registry.registry import Registry
from orchestrator.transport.liveness.sweep import RecordedDeath, Sweeper
from orchestrator.transport.redis import commands
from tests.integration.liveness.test_unproved_deaths import QUEUE, ProcessIncarnations
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

PARENT = "supervisor@h"

#: How a parent may have seen it end.
ENDS = [
    (DeathReason.KILLED, "SIGKILL"),
    (DeathReason.CRASHED, "exit code 3: bye"),
    (DeathReason.OOM, "SIGKILL by the OOM killer"),
]


@pytest.fixture
def sweeper(broker: BareBroker) -> Sweeper:
    return broker.store.sweeper()


@pytest.fixture
def entries(broker: BareBroker) -> Callable[[], list[dict[str, str]]]:
    return lambda: [fields for _, fields in broker.redis.xrange(broker.store.keys.deaths)]


def register(broker: BareBroker, **fields: Any) -> str:
    raw, _ = broker.store.run(*commands.register(broker.store.keys, "w@h:1", {"node": "w@h", "host": "h", **fields}))
    return str(raw.decode())


def found_by_heart(broker: BareBroker, sweeper: Sweeper, incarnation: str) -> None:
    assert sweeper.prove_death(incarnation, DeathReason.KILLED, by="heart") == "killed"


def found_by_sweep(broker: BareBroker, sweeper: Sweeper, incarnation: str) -> None:
    keys = broker.store.keys
    beat = broker.redis.zscore(keys.leases, incarnation)
    assert broker.store.run(*commands.fence(keys, incarnation, "killed", "sweep", beat=str(int(beat)))) == b"killed"


@pytest.mark.parametrize("find", [found_by_heart, found_by_sweep])
@pytest.mark.parametrize(("reason", "error"), ENDS)
def test_a_death_that_was_found_first_gets_its_true_reason_from_the_parent(
    broker: BareBroker, sweeper: Sweeper, find: Callable[..., None], reason: DeathReason, error: str
) -> None:
    registry = Registry(broker.store)
    incarnation = register(broker)
    find(broker, sweeper, incarnation)
    (before,) = registry.deaths()
    recorded = sweeper.record_death(incarnation, reason, by=PARENT, error=error)
    (after,) = registry.deaths()

    assert recorded == RecordedDeath(reason, 0, 0)
    assert (after.reason, after.error) == (reason, error)
    assert (after.incarnation, after.by, after.at_ms, after.host) == (incarnation, before.by, before.at_ms, "h")
    # A hook that has not run yet gets the same.
    assert broker.redis.hget(broker.store.keys.incarnation(incarnation), "reason") == reason


@pytest.mark.parametrize(("reason", "error"), ENDS)
def test_what_the_parent_has_recorded_is_not_changed_by_who_comes_later(
    broker: BareBroker, sweeper: Sweeper, entries: Callable[[], list[dict[str, str]]], reason: DeathReason, error: str
) -> None:
    incarnation = register(broker)
    assert sweeper.record_death(incarnation, reason, by=PARENT, error=error) == RecordedDeath(reason, 0, 0)
    before = entries()
    assert sweeper.prove_death(incarnation, DeathReason.KILLED, by="heart") == ""
    # The supervisor repeats what was not answered.
    assert sweeper.record_death(incarnation, DeathReason.KILLED, by=PARENT, error="SIGKILL") is None

    assert entries() == before
    assert (before[0]["reason"], before[0]["error"], before[0]["by"]) == (reason, error, PARENT)


def test_a_record_is_completed_once_however_often_the_parent_repeats_it(
    broker: BareBroker, sweeper: Sweeper, entries: Callable[[], list[dict[str, str]]]
) -> None:
    incarnation = register(broker)
    found_by_heart(broker, sweeper, incarnation)
    assert sweeper.record_death(incarnation, DeathReason.OOM, by=PARENT, error="SIGKILL by the OOM killer")
    before = entries()
    sweeper.record_death(incarnation, DeathReason.OOM, by=PARENT, error="SIGKILL by the OOM killer")

    assert entries() == before
    assert len(before) == 1


@pytest.mark.parametrize(
    ("recorded", "error"),
    [
        (DeathReason.DRAINED, ""),
        (DeathReason.DEPLOYED, ""),
        (DeathReason.CRASHED, "LookupError: what now"),
        # What has ended it was its silence; how its process ended later is another matter.
        (DeathReason.STUCK, ""),
        (DeathReason.LOST, ""),
    ],
)
def test_a_record_that_says_why_stays_as_it_is(
    broker: BareBroker, sweeper: Sweeper, entries: Callable[[], list[dict[str, str]]], recorded: DeathReason, error: str
) -> None:
    incarnation = register(broker)
    assert sweeper.prove_death(incarnation, recorded, by=incarnation, error=error)
    before = entries()

    assert sweeper.record_death(incarnation, DeathReason.CRASHED, by=PARENT, error="exit code 1") is None
    assert entries() == before


def test_a_parent_that_knows_nothing_more_changes_nothing(
    broker: BareBroker, sweeper: Sweeper, entries: Callable[[], list[dict[str, str]]]
) -> None:
    incarnation = register(broker)
    found_by_heart(broker, sweeper, incarnation)
    before = entries()

    assert sweeper.record_death(incarnation, DeathReason.KILLED, by=PARENT) is None
    assert sweeper.record_death("nobody@h:1#7", DeathReason.KILLED, by=PARENT, error="SIGKILL") is None
    assert entries() == before


@pytest.mark.parametrize("counted_by", ["heart", "fence"])
def test_an_oom_kill_that_was_counted_first_stays_one_where_the_parent_knows_only_the_signal(
    broker: BareBroker, sweeper: Sweeper, counted_by: str
) -> None:
    registry = Registry(broker.store)
    error = "SIGKILL, perhaps by the OOM killer: the control group counted a kill"
    incarnation = register(broker, oom_group="h:/pod", oom_kills="0")
    if counted_by == "fence":
        broker.redis.set(broker.store.keys.oom("h:/pod"), "1")
        assert sweeper.prove_death(incarnation, DeathReason.KILLED, by="heart") == "oom"
    else:
        assert sweeper.prove_death(incarnation, DeathReason.OOM, by="heart") == "oom"

    assert sweeper.record_death(incarnation, DeathReason.KILLED, by=PARENT, error=error) == RecordedDeath("oom", 0, 0)
    (death,) = registry.deaths()
    assert (death.reason, death.error) == ("oom", error)
    assert broker.redis.hget(broker.store.keys.incarnation(incarnation), "reason") == "oom"


@pytest.mark.parametrize("first", [DeathReason.KILLED, DeathReason.OOM])
def test_a_parent_that_has_not_seen_the_end_leaves_what_was_found_before(
    broker: BareBroker, sweeper: Sweeper, entries: Callable[[], list[dict[str, str]]], first: DeathReason
) -> None:
    incarnation = register(broker)
    assert sweeper.prove_death(incarnation, first, by="heart") == first
    before = entries()
    error = "its supervisor was killed"

    assert sweeper.record_death(incarnation, DeathReason.KILLED, by=PARENT, error=error, saw_end=False) is None
    assert entries() == before
    assert broker.redis.hget(broker.store.keys.incarnation(incarnation), "reason") == first


def test_a_parent_that_has_not_seen_the_end_records_a_death_that_nobody_has_found(
    broker: BareBroker, sweeper: Sweeper, entries: Callable[[], list[dict[str, str]]]
) -> None:
    incarnation = register(broker)
    error = "its supervisor was killed"
    recorded = sweeper.record_death(incarnation, DeathReason.KILLED, by=PARENT, error=error, saw_end=False)

    assert recorded == RecordedDeath("killed", 0, 0)
    assert [(entry["reason"], entry["error"]) for entry in entries()] == [("killed", error)]


def test_a_record_is_completed_after_the_incarnation_is_forgotten_and_others_have_died(
    broker: BareBroker, sweeper: Sweeper
) -> None:
    registry = Registry(broker.store)
    incarnation, other = register(broker), register(broker)
    found_by_heart(broker, sweeper, incarnation)
    (first,) = registry.deaths()
    eventually(lambda: registry.now_ms() > first.at_ms)
    found_by_heart(broker, sweeper, other)
    broker.redis.delete(broker.store.keys.incarnation(incarnation))
    broker.redis.zrem(broker.store.keys.dying, incarnation)

    # How many messages it held is not known any more.
    recorded = sweeper.record_death(incarnation, DeathReason.CRASHED, by=PARENT, error="exit code 3")
    assert recorded == RecordedDeath("crashed", None, None)
    deaths = [(death.incarnation, death.error) for death in registry.deaths()]
    assert deaths == [(other, ""), (incarnation, "exit code 3")]
    assert not broker.redis.exists(broker.store.keys.incarnation(incarnation))


@pytest.mark.parametrize("swept", [True, False])
def test_messages_are_requeued_and_counted_once_whoever_is_first(
    broker: BareBroker, sweeper: Sweeper, swept: bool
) -> None:
    incarnation, _, _ = ProcessIncarnations(broker).claim()
    found_by_heart(broker, sweeper, incarnation)
    if swept:
        assert broker.store.sweeper().sweep("sweep").moved == 1
    recorded = sweeper.record_death(incarnation, DeathReason.CRASHED, by=PARENT, error="exit code 3")

    assert recorded == RecordedDeath("crashed", 1, 0)
    row = broker.ledger(QUEUE)
    assert (row.ready, row.held, row.restarted, row.redelivered, row.lost) == (1, 0, 1, 1, 0)


def test_a_key_of_another_type_for_the_record_of_deaths_is_in_nobodys_way(broker: BareBroker, sweeper: Sweeper) -> None:
    incarnation = register(broker)
    found_by_heart(broker, sweeper, incarnation)
    broker.redis.delete(broker.store.keys.deaths)
    broker.redis.set(broker.store.keys.deaths, "rubbish")

    assert sweeper.record_death(incarnation, DeathReason.CRASHED, by=PARENT, error="exit code 3") is None
