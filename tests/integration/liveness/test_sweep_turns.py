"""Several sweepers: one at a time, and one that stalled can do no harm when it goes on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.transport.liveness import sweep
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker

LONG_AGO_MS = 60_000


@pytest.fixture(autouse=True)
def _long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late this process is, no turn runs out by itself."""
    monkeypatch.setattr(sweep, "TURN_S", 60.0)


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    # Nor is the time between two sweeps a gap, after which the second would judge nobody.
    broker = BareBroker(redis_url, sweep_gap_s=3600)
    yield broker
    broker.close()


def register(broker: BareBroker, name: str = "w") -> str:
    """An incarnation that nobody runs."""
    k = broker.store.keys
    raw, _ = broker.store.run(*commands.register(k, f"{name}:1", {"node": name}))
    return str(raw.decode())


def silence(broker: BareBroker, incarnation: str) -> None:
    """Let its lease have run out, with nothing that would excuse it."""
    k = broker.store.keys
    now_s, _ = broker.redis.time()
    broker.redis.zadd(k.leases, {incarnation: now_s * 1000 - LONG_AGO_MS})
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})


def age(broker: BareBroker, by_s: float) -> None:
    """Let that much time have passed since the last step of whoever has the turn."""
    until = int(broker.redis.hget(broker.store.keys.sweep, "turn_until_ms"))
    broker.redis.hset(broker.store.keys.sweep, "turn_until_ms", until - round(by_s * 1000))


def stalling(sweeper: Sweeper, script: str, meanwhile: Callable[[], Any]) -> None:
    """Have the sweeper stall just before it runs ``script``, and something happen meanwhile; once."""
    wire: Any = sweeper._commands
    run = wire.run
    happened: list[str] = []

    def stalled(name: str, *args: Any) -> Any:
        if name == script and not happened:
            happened.append(name)
            meanwhile()
        return run(name, *args)

    wire.run = stalled


def test_a_connection_to_another_run_of_the_server_proves_nothing(broker: BareBroker) -> None:
    """Regression: after a quick restart whoever was not back yet was taken for killed."""
    k, run = broker.store.keys, broker.redis.info("server")["run_id"]
    clients = {"gone": f"99999 gone {run}", "older": "99999 older", "restarted": "99999 restarted 0123"}
    names = {about: register(broker, about) for about in clients}
    now_ms = broker.redis.time()[0] * 1000
    for about, client in clients.items():
        broker.redis.hset(k.incarnation(names[about]), "client", client)
        broker.redis.zadd(k.leases, {names[about]: now_ms - 5000})
    sweeper = broker.store.sweeper()
    sweeper.sweep("first")
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    assert set(sweeper.sweep("second").dead) == {names["gone"], names["older"]}
    broker.redis.zadd(k.leases, {names["restarted"]: now_ms - LONG_AGO_MS})
    assert sweeper.sweep("third").dead == (names["restarted"],)


@pytest.mark.parametrize("stalls_before", ["fence", "reclaim", "find_orphans"])
def test_a_sweeper_that_stalled_is_refused_whatever_it_goes_on_with(broker: BareBroker, stalls_before: str) -> None:
    first, second = broker.store.sweeper(), broker.store.sweeper()
    first.sweep("first")
    victim = register(broker)
    silence(broker, victim)
    broker.redis.sadd(broker.store.keys.queues, "q")
    first._orphans_searched_at = float("-inf")

    def other_takes_over() -> None:
        age(broker, sweep.TURN_S + 0.1)
        # It was heard from meanwhile, so that the other sweeper lets it live.
        now_s, _ = broker.redis.time()
        broker.redis.zadd(broker.store.keys.leases, {victim: now_s * 1000 + 500}, xx=True)
        assert not second.sweep("second").stood_back

    stalling(first, stalls_before, other_takes_over)
    swept = first.sweep("first")
    assert swept.stood_back
    alive = broker.redis.zscore(broker.store.keys.leases, victim) is not None
    assert alive is (stalls_before == "fence")


def test_a_turn_names_the_connection_that_it_was_taken_on(broker: BareBroker) -> None:
    """Regression: a connection closed while idle was named, so any other sweeper ended the turn and took over."""
    first, second = broker.store.sweeper(), broker.store.sweeper()
    first.sweep("first")
    broker.redis.client_kill_filter(_id=first._commands.client().split()[0])
    stood_back: list[bool] = []
    stalling(first, "end_sweep", lambda: stood_back.append(second.sweep("second").stood_back))
    assert not first.sweep("first").stood_back
    assert stood_back == [True]


def test_a_stale_turn_is_refused_by_the_scripts_themselves(broker: BareBroker) -> None:
    k, store = broker.store.keys, broker.store
    store.sweeper().sweep("a")
    victim = register(broker)
    beat = broker.redis.zscore(k.leases, victim)
    stale: dict[str, Any] = {"turn": 0, "turn_ms": 2000}
    requeues: dict[str, Any] = {"max_deaths": 3, "ttl_ms": 1000, "batch": 10, "linger_ms": 0, "death_hooks_done": True}
    with pytest.raises(Exception, match="STALETURN"):
        store.run(*commands.fence(k, victim, "killed", "late", beat=str(int(beat)), **stale))
    with pytest.raises(Exception, match="STALETURN"):
        store.run(*commands.reclaim(k, victim, (), **requeues, **stale))
    with pytest.raises(Exception, match="STALETURN"):
        store.run(*commands.find_orphans(k, (), ["q"], reader_idle_ms=60_000, **stale))
    assert broker.redis.zscore(k.leases, victim) == beat
    turn = broker.redis.hget(k.sweep, "sweeps")
    call = commands.fence(k, victim, "killed", "now", beat=str(int(beat)), turn=turn, turn_ms=2000)
    assert store.run(*call) == b"killed"


def test_while_one_sweeps_the_others_stand_back(broker: BareBroker) -> None:
    first, second = broker.store.sweeper(), broker.store.sweeper()
    seen = []
    stalling(first, "end_sweep", lambda: seen.append(second.sweep("second")))
    assert not first.sweep("first").stood_back
    assert [swept.stood_back for swept in seen] == [True]
    assert not second.sweep("second").stood_back


def test_a_sweeper_that_died_in_its_turn_holds_nobody_up_for_long(broker: BareBroker) -> None:
    first, second = broker.store.sweeper(), broker.store.sweeper()

    def dies() -> None:
        raise ResponseError("killed")

    stalling(first, "end_sweep", dies)
    with pytest.raises(ResponseError):
        first.sweep("first")
    assert second.sweep("second").stood_back
    age(broker, sweep.TURN_S + 0.1)
    assert not second.sweep("second").stood_back


@pytest.mark.parametrize("pid", ["own", "another"])
def test_the_proof_of_a_sweepers_death_ends_the_turn_of_its_process(broker: BareBroker, pid: str) -> None:
    """Regression: a worker that was killed while it swept was followed only when its turn had run out, after 2 s."""
    first, second = broker.store.sweeper(), broker.store.sweeper()
    fields = {"node": "w", "host": socket.gethostname(), "pid": os.getpid() if pid == "own" else 1}
    raw, _ = broker.store.run(*commands.register(broker.store.keys, "w:1", fields))

    def dies() -> None:
        raise ResponseError("killed")

    stalling(first, "end_sweep", dies)
    with pytest.raises(ResponseError):
        first.sweep("first")
    assert second.sweep("second").stood_back
    assert second.prove_death(raw.decode(), DeathReason.KILLED, by="heart")
    assert second.sweep("second").stood_back is (pid == "another")


def test_the_turn_of_a_sweeper_whose_connection_is_closed_holds_nobody_up(broker: BareBroker) -> None:
    """Regression: where a worker was killed in its turn together with its heart, the turn had to run out, after 2 s."""
    first, second = broker.store.sweeper(), broker.store.sweeper()

    def is_cut_off() -> None:
        assert second.sweep("second").stood_back
        first._commands.drop()
        assert not second.sweep("second").stood_back

    stalling(first, "end_sweep", is_cut_off)
    first.sweep("first")
    assert not second.sweep("second").stood_back


@pytest.mark.parametrize("hours", [1, -1])
def test_a_turn_from_before_the_clock_jumped_holds_nobody_up(broker: BareBroker, hours: int) -> None:
    first, second = broker.store.sweeper(), broker.store.sweeper()
    seen = []

    def jumps() -> None:
        age(broker, hours * 3600)
        seen.append(second.sweep("second").stood_back)

    stalling(first, "end_sweep", jumps)
    first.sweep("first")
    assert seen == [False]
