"""Leaks with proof: injected ones are all found, healthy monitors never, and what repairs them does."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.leak_check import LeakCheck
from orchestrator.monitors.leak import Leak, LeakKind
from orchestrator.monitors.origin import OriginRecorder
from orchestrator.telemetry import Event, attach, detach
from tests.support.eventually import eventually
from tests.support.monitors_under_test import RedisUnderTest


@pytest.fixture
def ground(redis_url: str) -> Iterator[RedisUnderTest]:
    ground = RedisUnderTest(redis_url)
    yield ground
    ground.close()


def unseen_death(ground: RedisUnderTest, agent: str) -> str:
    """An incarnation that is gone without anybody having cleaned up, as a broken tool leaves it."""
    incarnation = ground.incarnation(agent)
    ground.redis.zrem(ground.store.keys.leases, incarnation)
    return incarnation


def test_every_injected_leak_is_found_and_repaired(ground: RedisUnderTest) -> None:
    k, m, owner = ground.store.keys, ground.monitors, ground.watcher()
    healthy = m.monitor_many([("target", n) for n in range(50)], owner=owner)
    lonely = m.monitor("other", "lonely", owner=owner)
    duplicate = m.monitor("target", 0, owner=owner)
    damaged = [m.monitor("target", f"damaged {n}", owner=owner) for n in range(5)]
    orphan_owner = ground.join("watcher")
    orphan = m.monitor("target", "orphan", owner=type(owner)(orphan_owner, "watcher"))
    ground.redis.zrem(k.leases, orphan_owner)
    unseen_death(ground, "other")
    ground.redis.srem(k.monitors_of(owner.id), damaged[0])
    ground.redis.zrem(k.monitors_on(ground.incarnation("target")), damaged[1])
    ground.redis.hdel(k.monitors, damaged[2])
    ground.redis.hset(k.monitors, damaged[3], "what is this")
    ground.redis.srem(k.monitor_targets, ground.incarnation("target"))
    found = {(leak.kind, leak.ref) for leak in m.find_leaks()}
    expected = {
        (LeakKind.TARGET_GONE, lonely),
        (LeakKind.DUPLICATE, duplicate),
        (LeakKind.OWNER_GONE, orphan),
        *((LeakKind.HALF_WRITTEN, ref) for ref in damaged[:4]),
    }
    # With the name of its set gone, every monitor on the target is half-written.
    assert found >= expected
    assert {ref for kind, ref in found - expected if kind is LeakKind.HALF_WRITTEN} <= {
        *healthy,
        *damaged,
        duplicate,
        orphan,
    }
    assert {kind for kind, _ in found - expected} == {LeakKind.HALF_WRITTEN}
    assert {leak.kind for leak in m.find_leaks() if not leak.detail or not leak.repair} == set()
    for _ in range(2):
        m.repair_leaks(m.find_leaks())
    assert m.find_leaks() == []
    assert [e.ref for e in m.list()] == [*healthy, damaged[0], damaged[1], damaged[4]]
    assert [(d.ref, d.reason) for d in ground.heard()] == [(lonely, "noproc")]
    # The one that was deleted behind our back is missing in the count, and that is noticed too.
    assert [text for text in ground.inconsistencies() if not text.startswith("created")] == []
    ground.die("target")
    assert {d.ref for d in ground.heard()} == {lonely, *healthy, damaged[0], damaged[1], damaged[4]}


def test_what_is_being_cleaned_is_no_leak(ground: RedisUnderTest) -> None:
    ground.monitors.monitor("target", owner=ground.watcher())
    ground.fence(ground.incarnation("target"))
    assert ground.monitors.find_leaks() == []
    ground.fence(ground.incarnation("watcher"))
    assert ground.monitors.find_leaks() == []


def test_healthy_monitors_are_not_reported_while_others_come_and_go(ground: RedisUnderTest) -> None:
    stop, rounds = threading.Event(), [0, 0]

    def churn(number: int) -> None:
        with ground.monitors.session() as session:
            while not stop.is_set():
                with ground.monitors.monitored("target", rounds[number]):
                    rounds[number] += 1
                if rounds[number] % 20 == 0:
                    agent = ground.join("target")
                    session.monitor(agent, rounds[number])
                    ground.fence(agent)
                    ground.monitors.on_death(agent, "killed")

    with ThreadPoolExecutor(2) as pool:
        churning = [pool.submit(churn, number) for number in range(2)]
        try:
            searches = 0
            while searches < 40 or min(rounds) <= 20:
                assert ground.monitors.find_leaks(age_s=3600) == []
                searches += 1
                assert not any(one.done() for one in churning)
        finally:
            stop.set()
        for one in churning:
            one.result(30)


def test_the_periodic_check_warns_by_tag_and_tells(ground: RedisUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    attach(heard.append, "monitor.leaked")
    try:
        for tag in ("a", "a", "a", "b", "b", "c"):
            ground.monitors.monitor("target", tag, owner=ground.watcher())
        check = LeakCheck(lambda: ground.orchestrator.runtime.redis.monitors)
        with caplog.at_level(logging.WARNING):
            assert eventually(check.run) == 3, "a turn has 0.4 s, so it may take several"
    finally:
        detach(heard.append)
    warnings = [r.getMessage() for r in caplog.records if "leaked monitors" in r.getMessage()]
    assert [w.split(" (")[0] for w in warnings] == [
        "2 leaked monitors, tag 'a': duplicate",
        "1 leaked monitors, tag 'b': duplicate",
    ]
    assert "test_monitor_leaks.py:" in warnings[0]
    assert [(e.metadata["tag"], e.measurements["count"]) for e in heard] == [("'a'", 2), ("'b'", 1)]
    assert ground.monitors.stats().leaked == 3


def test_one_check_says_so_much_and_how_much_more_there_is(
    ground: RedisUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []
    attach(heard.append, "monitor.leaked")
    try:
        tags = [*(f"order {n}" for n in range(40)), *["often"] * 3]
        ground.monitors.monitor_many([("target", tag) for tag in (*tags, *tags)], owner=ground.watcher())
        check = LeakCheck(lambda: ground.orchestrator.runtime.redis.monitors)
        with caplog.at_level(logging.WARNING):
            assert eventually(check.run) == 45, "a turn has 0.4 s, so it may take several"
    finally:
        detach(heard.append)
    warnings = [r.getMessage() for r in caplog.records if "leaked monitors" in r.getMessage()]
    assert len(warnings) == len(heard) == 21
    assert warnings[0].startswith("5 leaked monitors, tag 'often'")
    assert warnings[-1].startswith("21 more leaked monitors, of 21 other kinds and tags")
    assert sum(e.measurements["count"] for e in heard) == 45


def test_candidates_are_judged_a_few_at_a_time_and_others_get_their_turn(ground: RedisUnderTest) -> None:
    ground.monitors.monitor_many([("target", n % 500) for n in range(1000)], owner=ground.watcher())
    search = ground.monitors.search()
    judged: list[int] = []
    judge = ground.monitors.judge

    def count(leaks: Sequence[Leak], **more: Any) -> list[Leak]:
        judged.append(len(leaks))
        return judge(leaks, **more)

    ground.monitors.judge = count  # type: ignore[method-assign]
    turns = 0
    while not search.go_on(1e-9):
        turns += 1
        # Only what was judged in this turn.
        assert sum(judged) <= 200
        judged.clear()
    assert turns > 5
    assert len(search.leaks()) == 500


@pytest.mark.parametrize("side", ["owner", "target"])
def test_a_set_that_nothing_names_any_more_is_found_and_repaired(ground: RedisUnderTest, side: str) -> None:
    k, m = ground.store.keys, ground.monitors
    refs = m.monitor_many([("target", n) for n in range(3)], owner=ground.watcher())
    target, owner = ground.incarnation("target"), ground.watcher().id
    kept, names, party = (k.monitors_of(owner), k.monitor_owners, owner)
    if side == "target":
        kept, names, party = (k.monitors_on(target), k.monitor_targets, target)
    # As a tool leaves it that deletes what it takes for all there is.
    ground.redis.delete(k.monitors, {"owner": k.monitors_on(target), "target": k.monitors_of(owner)}[side])
    ground.redis.delete(k.monitor_owners, k.monitor_targets)
    leaks = m.find_leaks()
    assert {(leak.kind, leak.ref) for leak in leaks} == {(LeakKind.HALF_WRITTEN, ref) for ref in refs}
    assert party in leaks[0].more
    assert m.repair_leaks(leaks) == leaks
    assert (ground.redis.exists(kept), ground.redis.sismember(names, party)) == (0, 0)
    assert m.find_leaks() == []
    assert [text for text in ground.inconsistencies() if not text.startswith("created")] == []


def test_the_periodic_check_goes_through_no_keys(ground: RedisUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError("a scan of the keyspace")

    monkeypatch.setattr(ground.store.client, "scan_iter", refuse)
    monkeypatch.setattr(ground.monitors.store.client, "scan_iter", refuse)
    assert LeakCheck(lambda: ground.orchestrator.runtime.redis.monitors).run() == 0


def test_a_search_goes_on_from_run_to_run(ground: RedisUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.maintenance.leak_check._SLICE_S", 1e-6)
    ground.monitors.monitor_many([("target", n % 1500) for n in range(1501)], owner=ground.watcher())
    check = LeakCheck(lambda: ground.orchestrator.runtime.redis.monitors)
    runs = 1
    while not (found := check.run()):
        runs += 1
        assert runs < 100
    assert found == 1
    assert runs > 3


@pytest.mark.parametrize(("mode", "noted"), [("on", 64), ("off", 0), ("sampled", 8)])
def test_stacks_are_captured_as_the_setting_says(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, mode: str, noted: int
) -> None:
    # Of 64 monitors this one samples 8; one drawn at random would sample none once in 62 runs.
    monkeypatch.setattr(f"{OriginRecorder.__module__}.random", random.Random(1))
    ground = RedisUnderTest(redis_url, monitor_origins=mode)
    for n in range(64):
        ground.monitors.monitor("target", n, owner=ground.watcher())
    origins = [entry.origin for entry in ground.monitors.list()]
    with_origin = [text for text in origins if text]
    assert len(with_origin) == noted
    assert all("test_stacks_are_captured_as_the_setting_says" in text.splitlines()[0] for text in with_origin)
    assert all(len(text.splitlines()) <= 4 for text in with_origin)
    assert ground.redis.hlen(ground.store.keys.monitor_origins) == (1 if with_origin else 0)
    ground.close()


def test_messages_nobody_expects_hurt_nobody(ground: RedisUnderTest) -> None:
    k, m = ground.store.keys, ground.monitors
    with m.session() as session:
        ref = session.monitor("target")
        ground.redis.hset(k.monitors, "not a number", b"\xff\x00")
        ground.redis.sadd(k.monitors_of(session.id), "neither")
        assert [e.ref for e in m.list()] == [ref]
        assert {leak.kind for leak in m.find_leaks()} == {LeakKind.HALF_WRITTEN}
        ground.die("target")
        down = session.next_down(timeout_s=5)
        assert down is not None
        assert down.ref == ref
        m.repair_leaks(m.find_leaks())
        assert m.find_leaks() == []


@pytest.mark.slow
def test_a_redis_that_is_away_is_named_and_nobody_hangs() -> None:
    with EmbeddedServer() as server:
        ground = RedisUnderTest(server.url)
        with ground.monitors.session() as session:
            ref = session.monitor("target", "before")
            server.kill()
            for ask in (ground.monitors.list, ground.monitors.stats, ground.monitors.find_leaks):
                with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
                    ask()
            with pytest.raises(BrokerUnavailable):
                session.next_down(timeout_s=30)
            with ground.monitors.monitored("target") as none:
                assert none is None, "the block runs all the same"
            server.restart()
            # Redis kept nothing (no append-only file): the session learns that it is gone, and says so.
            eventually(lambda: _gone(session), timeout_s=15)
            assert ground.monitors.list() == []
            assert ref
        with ground.monitors.session() as again:
            assert again.monitor("target")
        ground.close()


def test_a_redis_that_hangs_keeps_nobody_waiting_and_all_goes_on_afterwards() -> None:
    with EmbeddedServer() as server:
        ground = RedisUnderTest(server.url)
        with ground.monitors.session() as session:
            ref = session.monitor("target", "before")
            server.pause()
            try:
                with pytest.raises(BrokerUnavailable):
                    ground.monitors.stats()
            finally:
                server.resume()
            assert [monitor.ref for monitor in ground.monitors.list()] == [ref]
            assert ground.monitors.stats().active == 1
            ground.die("target")
            down = session.next_down(timeout_s=10)
            assert down is not None
            assert down.ref == ref
        ground.close()


def _gone(session: object) -> bool:
    try:
        session.next_down(timeout_s=0)  # type: ignore[attr-defined]
    except BrokerUnavailable:
        return False
    except RedisConnectionError as error:
        raise AssertionError("an error of the client's") from error
    except Exception as error:  # noqa: BLE001
        return type(error).__name__ == "OwnerGone"
    return False


def test_a_down_is_a_message_like_any_other(ground: RedisUnderTest) -> None:
    ref = ground.monitors.monitor("target", owner=ground.watcher())
    ground.die("target")
    (message,) = ground.messages()
    assert message["headers"]["task"] == "watcher.on_down"
    assert message["headers"]["id"] == f"down-{ref}"
    assert message["headers"]["orc"]["agent"] == "watcher"
    assert message["headers"]["orc"]["message"] == "Down"
    assert json.loads(message["body"])[1:] == [{}, {}]
    (row,) = [row for row in ground.orchestrator.ledger() if row.queue == "watcher"]
    assert (row.accepted, row.pending, row.lost) == (1, 1, 0)


def test_a_monitor_on_an_agent_ends_with_the_last_of_its_incarnations(ground: RedisUnderTest) -> None:
    second = ground.join("target")
    ref = ground.monitors.monitor("target", owner=ground.watcher())
    (entry,) = ground.monitors.list()
    assert set(entry.incarnations) == {ground.incarnation("target"), second}
    third = ground.join("target")
    ground.die("target", "oom")
    assert ground.heard() == []
    (entry,) = ground.monitors.list()
    assert entry.incarnations == (second,)
    ground.fence(second, "drained")
    ground.orchestrator.runtime.redis.sweep()
    assert [(d.ref, d.target, d.reason) for d in ground.heard()] == [(ref, "target", "drained")]
    assert third in ground.monitors.living(), "who joins later is not monitored"
    assert ground.inconsistencies() == []


def test_a_death_with_more_than_one_sweep_can_do_goes_on(
    ground: RedisUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.monitors.monitor_many([("target", n) for n in range(900)], owner=ground.watcher())
    monkeypatch.setattr("orchestrator.monitors.redis_deaths._ON_DEATH_S", 1e-9)
    monkeypatch.setattr("orchestrator.monitors.redis_monitors.BATCH", 100)
    ground.fence(ground.incarnation("target"))
    assert not ground.monitors.on_death(ground.incarnation("target"), "killed")
    monkeypatch.undo()
    ground.orchestrator.runtime.redis.sweep()
    assert len({d.ref for d in ground.heard()}) == len(ground.heard()) == 900
    assert ground.inconsistencies() == []
