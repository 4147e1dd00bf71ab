"""What a death entails beyond its mail: called in sweeps until it is done, and only then is the dead forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.liveness import sweep
from orchestrator.transport.liveness.heartbeat import Heartbeat
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from tests.apps.monitors_app import make
from tests.support.bare_broker import BareBroker


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


def dead(broker: BareBroker, reason: str = "killed", **fields: str) -> str:
    """An incarnation that was fenced so long ago that nothing can be served to it any more."""
    k = broker.store.keys
    raw, _ = broker.store.run(*commands.register(k, "w:1", {"node": "w", **fields}))
    incarnation = str(raw.decode())
    assert broker.store.run(*commands.fence(k, incarnation, reason, "test"))
    now_s, _ = broker.redis.time()
    broker.redis.zadd(k.dying, {incarnation: now_s * 1000 - 60_000})
    return incarnation


def sweeper(broker: BareBroker, *on_death: Callable[[str, str], bool]) -> Sweeper:
    return replace(broker.store, options=replace(broker.store.options, on_death=on_death)).sweeper()


def test_it_is_called_in_each_sweep_until_it_is_done_and_then_the_dead_is_forgotten(broker: BareBroker) -> None:
    called: list[tuple[str, str]] = []

    def on_death(incarnation: str, reason: str) -> bool:
        called.append((incarnation, reason))
        return len(called) == 3

    victim, one = dead(broker, "oom"), sweeper(broker, on_death)
    for sweeps in (1, 2, 3):
        one.sweep("test")
        assert len(called) == sweeps
        assert broker.redis.zcard(broker.store.keys.dying) == 1
    one.sweep("test")
    assert called == [(victim, "oom")] * 3
    assert broker.redis.zcard(broker.store.keys.dying) == 0
    assert not broker.redis.exists(broker.store.keys.incarnation(victim))


def test_another_sweeper_goes_on_where_the_first_was_killed(broker: BareBroker) -> None:
    victim = dead(broker)
    sweeper(broker, lambda *_: True).sweep("killed before it could say that all is done")
    called: list[str] = []

    def on_death(incarnation: str, reason: str) -> bool:
        called.append(incarnation)
        return True

    other = sweeper(broker, on_death)
    other.sweep("other")
    other.sweep("other")
    assert called == [victim]
    assert broker.redis.zcard(broker.store.keys.dying) == 0


@pytest.mark.parametrize(
    ("error", "has_traceback"), [(LookupError("no"), True), (BrokerUnavailable("redis://h", "away"), False)]
)
def test_its_errors_do_not_keep_messages_from_a_requeue(
    broker: BareBroker, caplog: pytest.LogCaptureFixture, error: Exception, has_traceback: bool
) -> None:
    victim = dead(broker)

    def on_death(incarnation: str, reason: str) -> Any:
        raise error

    swept = sweeper(broker, on_death).sweep("test")
    assert not swept.stood_back
    assert f"a death hook of incarnation {victim} failed" in caplog.text
    assert ("Traceback" in caplog.text) is has_traceback
    assert str(error) in caplog.text
    assert broker.redis.zcard(broker.store.keys.dying) == 1


def test_a_hook_that_fails_or_needs_longer_keeps_no_other_from_running(broker: BareBroker) -> None:
    victim, called = dead(broker), [0, 0, 0]

    def fails_once(incarnation: str, reason: str) -> bool:
        called[0] += 1
        if called[0] == 1:
            raise LookupError("no")
        return True

    def needs_three(incarnation: str, reason: str) -> bool:
        called[1] += 1
        return called[1] == 3

    def is_quick(incarnation: str, reason: str) -> bool:
        called[2] += 1
        return True

    one = sweeper(broker, fails_once, needs_three, is_quick)
    for _ in range(3):
        assert broker.redis.hget(broker.store.keys.incarnation(victim), "reason")
        one.sweep("test")
    one.sweep("test")
    assert called == [2, 3, 1], "what is done is not done again"
    assert broker.redis.zcard(broker.store.keys.dying) == 0


def test_who_ends_by_its_own_word_is_forgotten_only_when_all_is_done(broker: BareBroker) -> None:
    k = broker.store.keys
    raw, _ = broker.store.run(*commands.register(k, "w:1", {"node": "w"}))
    called: list[tuple[str, str]] = []

    def on_death(incarnation: str, reason: str) -> bool:
        called.append((incarnation, reason))
        return True

    one = sweeper(broker, on_death)
    one.retire(raw.decode(), DeathReason.DRAINED)
    assert broker.redis.zcard(k.dying) == 1
    one.sweep("test")
    assert called == [(raw.decode(), "drained")]


def test_a_hundred_whose_death_cannot_be_with_hooks_block_nobody_else(
    broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: only the first hundred of the dying were ever looked at."""
    monkeypatch.setattr(sweep, "_DEATH_HOOKS_S", 60)
    cursed = {dead(broker) for _ in range(100)}
    victim = dead(broker)
    broker.redis.zincrby(broker.store.keys.dying, 10_000, victim)

    def on_death(incarnation: str, reason: str) -> bool:
        if incarnation in cursed:
            raise LookupError("no")
        return True

    one = sweeper(broker, on_death)
    one.sweep("test")
    one.sweep("test")
    assert broker.redis.zscore(broker.store.keys.dying, victim) is None
    assert broker.redis.zcard(broker.store.keys.dying) == 100


def test_who_could_not_be_with_hooks_stands_at_the_end_of_the_line(
    broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_DEATH_HOOKS_S", -1)
    both = {dead(broker), dead(broker)}
    called: list[str] = []

    def on_death(incarnation: str, reason: str) -> bool:
        called.append(incarnation)
        return False

    one = sweeper(broker, on_death)
    one.sweep("test")
    one.sweep("test")
    assert set(called) == both, "out of time, each sweep asks one, and not the same again"


def test_a_sweeper_that_runs_no_death_hooks_forgets_nobody_that_has_some(broker: BareBroker) -> None:
    """Regression: plain workers beside an orchestrator's forgot a dead incarnation before its monitors had fired."""
    k = broker.store.keys
    with_hooks, _plain = dead(broker, on_death="1"), dead(broker)
    broker.store.sweeper().sweep("plain")
    broker.store.sweeper().sweep("plain")
    assert broker.redis.zrange(k.dying, 0, -1) == [with_hooks]
    called: list[str] = []

    def on_death(incarnation: str, reason: str) -> bool:
        called.append(incarnation)
        return True

    one = sweeper(broker, on_death)
    one.sweep("test")
    one.sweep("test")
    assert (called, broker.redis.zcard(k.dying)) == ([with_hooks], 0)
    assert not broker.redis.exists(k.incarnation(with_hooks))


@pytest.mark.parametrize("has_hooks", [True, False])
def test_an_incarnation_records_whether_it_has_death_hooks(broker: BareBroker, has_hooks: bool) -> None:
    store, k = broker.store, broker.store.keys
    options = replace(store.options, on_death=(lambda *_: True,) if has_hooks else ())
    heart = Heartbeat(CommandConnection(store.pool), k, options, store.broker)
    heart.register()
    assert broker.redis.hget(k.incarnation(heart.incarnation), "on_death") == ("1" if has_hooks else None)


def test_who_is_monitored_is_forgotten_only_when_that_has_been_told(broker: BareBroker) -> None:
    """A plain worker that somebody monitors by its incarnation: its own options say nothing of it."""
    k = broker.store.keys
    orchestrator = make(broker.url)
    raw, _ = broker.store.run(*commands.register(k, "w:1", {"node": "w"}))
    with orchestrator.monitors.session() as session:
        session.monitor(raw.decode())
        assert broker.store.run(*commands.fence(k, raw.decode(), "killed", "test"))
        broker.redis.zincrby(k.dying, -60_000, raw)
        broker.store.sweeper().sweep("plain")
        assert broker.redis.zcard(k.dying) == 1
        orchestrator.runtime.redis.sweep()
        down = session.next_down(timeout_s=5)
        assert down is not None
        assert (down.target, down.reason) == (raw.decode(), "killed")
        broker.store.sweeper().sweep("plain")
        assert broker.redis.zcard(k.dying) == 0


def test_a_session_that_was_closed_is_forgotten_where_nobody_else_has_hooks(broker: BareBroker) -> None:
    k = broker.store.keys
    with make(broker.url).monitors.session() as session:
        assert broker.redis.hget(k.incarnation(session.id), "on_death") == "1"
    broker.redis.zincrby(k.dying, -60_000, session.id)
    broker.store.sweeper().sweep("plain")
    assert broker.redis.zcard(k.dying) == 0
