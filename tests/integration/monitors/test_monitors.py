"""Monitors in memory and on Redis: the same tests, and the same DOWNs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator import Down
from orchestrator.core.errors import InvalidPolicy, NoOwner, OwnerGone
from orchestrator.monitors.leak import LeakKind
from orchestrator.telemetry import Event, attach, detach
from tests.support.eventually import eventually
from tests.support.monitors_under_test import InMemoryUnderTest, MonitorsUnderTest, RedisUnderTest, Target

SOON_S = 5.0


@pytest.fixture(params=["in memory", "on Redis"])
def ground(request: pytest.FixtureRequest) -> Iterator[MonitorsUnderTest]:
    if request.param == "in memory":
        yield InMemoryUnderTest()
        return
    ground = RedisUnderTest(request.getfixturevalue("redis_url"))
    yield ground
    ground.close()


@pytest.fixture(autouse=True)
def _nothing_dangles(ground: MonitorsUnderTest) -> Iterator[None]:
    yield
    assert ground.inconsistencies() == []


@pytest.fixture
def told() -> Iterator[list[Event]]:
    """Events about monitors."""
    events: list[Event] = []

    def hear(event: Event) -> None:
        if event.name.startswith("monitor."):
            events.append(event)

    attach(hear)
    yield events
    detach(hear)


def test_a_live_target_is_monitored_and_its_death_is_told_once(ground: MonitorsUnderTest, told: list[Event]) -> None:
    with ground.monitors.session() as session:
        ref = ground.monitors.monitor("target", tag="checkout")
        assert session.next_down(timeout_s=0) is None
        ground.die("target", "oom")
        assert session.next_down(SOON_S) == Down(ref, "target", "oom", "checkout", session.id)
        ground.die("target")
        assert session.next_down(timeout_s=0) is None
        assert ground.monitors.list() == []
    assert [(e.name, dict(e.metadata)) for e in told] == [
        ("monitor.created", {"owner": session.id}),
        ("monitor.down", {"target": told[1].metadata["target"], "reason": "oom"}),
        ("monitor.cleaned", {"who": told[2].metadata["who"], "why": "target died"}),
    ]


def test_a_dead_target_is_told_of_at_once(ground: MonitorsUnderTest) -> None:
    gone = ground.incarnation("target")
    ground.die("target")
    with ground.monitors.session() as session:
        refs = [session.monitor("target", tag=1), session.monitor(gone, tag=2), session.monitor("nobody", tag=3)]
        downs = [session.next_down(SOON_S) for _ in refs]
        assert [(d.ref, d.target, d.reason, d.tag) for d in downs if d] == [
            (refs[0], "target", "noproc", 1),
            (refs[1], gone, "noproc", 2),
            (refs[2], "nobody", "noproc", 3),
        ]
        assert ground.monitors.list() == []


def test_an_agent_is_told_in_its_mailbox(ground: MonitorsUnderTest) -> None:
    ref = ground.monitors.monitor(Target, tag={"job": [1]}, owner=ground.watcher())
    owner = ground.watcher().id
    assert ground.heard() == []
    ground.die("target")
    assert ground.heard() == [Down(ref, "target", "killed", {"job": [1]}, owner)]
    ground.die("target")
    assert len(ground.heard()) == 1


@pytest.mark.parametrize("tag", ["", "ä\n\x00\"'\\@ID@%1", 0, -1.5, True, None, [], {"b": 1, "a": [None, "\u2028"]}])
def test_kinds_of_tags(ground: MonitorsUnderTest, tag: Any) -> None:
    with ground.monitors.session() as session:
        session.monitor("target", tag)
        ground.monitors.monitor("target", tag, owner=ground.watcher())
        assert [entry.tag for entry in ground.monitors.list(tag=tag)] == [tag, tag]
        assert ground.monitors.list(tag="another") == []
        ground.die("target")
        down = session.next_down(SOON_S)
        assert down is not None
        assert (down.tag, type(down.tag)) == (tag, type(tag))
        assert [d.tag for d in ground.heard()] == [tag]


@pytest.mark.parametrize("tag", [object(), float("nan"), "x" * 1001, {1, 2}])
def test_tags_that_are_none(ground: MonitorsUnderTest, tag: Any) -> None:
    with ground.monitors.session(), pytest.raises(InvalidPolicy, match="tag="):
        ground.monitors.monitor("target", tag)


@pytest.mark.parametrize("target", ["", "a\nb", 5, None, object, "x" * 301])
def test_targets_that_are_none(ground: MonitorsUnderTest, target: Any) -> None:
    with ground.monitors.session(), pytest.raises(InvalidPolicy, match="target="):
        ground.monitors.monitor(target)


def test_a_removed_monitor_tells_nothing(ground: MonitorsUnderTest, told: list[Event]) -> None:
    with ground.monitors.session() as session:
        ref, other = session.monitor("target", "a"), session.monitor("target", "b")
        assert ground.monitors.demonitor(ref)
        assert not ground.monitors.demonitor(ref), "there is none any more"
        ground.die("target")
        down = session.next_down(SOON_S)
        assert down is not None
        assert down.ref == other
        assert session.next_down(timeout_s=0) is None
    assert {"who": session.id, "why": "removed"} in [dict(e.metadata) for e in told]


@pytest.mark.parametrize("flush", [True, False])
def test_a_down_that_was_not_taken_yet_can_be_flushed(ground: MonitorsUnderTest, flush: bool) -> None:
    with ground.monitors.session() as session:
        ref = session.monitor("target")
        ground.die("target")
        assert not ground.monitors.demonitor(ref, flush=flush)
        assert ground.monitors.is_flushed(ref) is flush
        assert (session.next_down(timeout_s=0) is None) is flush


@pytest.mark.parametrize("ref", [99_999_999, 2**52])
def test_an_unknown_ref_is_no_error_as_in_otp(ground: MonitorsUnderTest, ref: int) -> None:
    assert ground.monitors.demonitor(ref) is False


@pytest.mark.parametrize("ref", ["1", None, 0, -1, 1.0, True, 2**53])
def test_what_is_no_ref_is_refused(ground: MonitorsUnderTest, ref: Any) -> None:
    with pytest.raises(InvalidPolicy, match="what monitor\\(\\) returned"):
        ground.monitors.demonitor(ref)


def test_monitors_go_with_their_owner(ground: MonitorsUnderTest, told: list[Event]) -> None:
    owner = ground.watcher()
    ground.monitors.monitor_many([("target", n) for n in range(3)] + [("other", "")], owner=owner)
    with ground.monitors.session() as session:
        session.monitor("target")
        ground.die("watcher")
        assert [entry.owner for entry in ground.monitors.list()] == [session.id]
        ground.die("target")
        assert session.next_down(SOON_S) is not None
    assert ground.heard() == []
    assert {"who": owner.id, "why": "owner died"} in [dict(e.metadata) for e in told]
    stats = ground.monitors.stats()
    assert (stats.created, stats.owner_died, stats.target_died, stats.active) == (5, 4, 1, 0)


def test_monitors_go_with_their_session(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        session.monitor("target")
    assert ground.monitors.list() == []
    assert ground.monitors.stats().owner_died == 1
    with pytest.raises(OwnerGone, match="has ended or was declared dead"):
        session.monitor("target")
    with pytest.raises(OwnerGone):
        session.next_down(timeout_s=0)


def test_an_owner_that_is_gone_makes_no_monitors(ground: MonitorsUnderTest) -> None:
    owner = ground.watcher()
    ground.die("watcher")
    with pytest.raises(OwnerGone):
        ground.monitors.monitor("target", owner=owner)
    assert ground.monitors.stats().created == 0


def test_several_monitors_of_one_owner_are_told_one_by_one(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        refs = ground.monitors.monitor_many([("target", n) for n in range(5)])
        other = session.monitor("other")
        ground.die("target")
        downs = [session.next_down(SOON_S) for _ in refs]
        assert sorted(d.ref for d in downs if d) == refs
        assert {d.tag for d in downs if d} == set(range(5))
        assert [entry.ref for entry in ground.monitors.list()] == [other]


def test_who_monitors_itself_is_cleaned_and_not_told(ground: MonitorsUnderTest) -> None:
    ground.monitors.monitor(ground.incarnation("watcher"), owner=ground.watcher())
    ground.die("watcher")
    assert ground.heard() == []
    assert ground.monitors.stats().owner_died == 1


def test_a_revived_target_is_another_incarnation(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        first = session.monitor("target")
        ground.die("target")
        ground.revive("target")
        down = session.next_down(SOON_S)
        assert down is not None
        assert down.ref == first
        second = session.monitor("target")
        assert second > first
        assert session.next_down(timeout_s=0) is None


def test_the_list_is_empty_at_first(ground: MonitorsUnderTest) -> None:
    assert ground.monitors.list() == []
    assert ground.monitors.find_leaks() == []
    stats = ground.monitors.stats()
    assert (stats.created, stats.active, stats.cleaned, stats.leaked, stats.downs) == (0, 0, 0, 0, 0)


def test_the_list_says_what_there_is_to_say(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        ref = ground.monitors.monitor("target", "t")
        ground.monitors.monitor(ground.incarnation("other"), "o", owner=ground.watcher())
        (entry,) = ground.monitors.list(owner=session.id)
        assert (entry.ref, entry.owner, entry.agent, entry.target) == (ref, session.id, "", "target")
        assert entry.incarnations == (ground.incarnation("target"),)
        assert (entry.tag, entry.owner_alive, entry.target_alive) == ("t", True, True)
        assert 0 <= entry.age_s < 60
        assert entry.origin.splitlines()[0].endswith("in test_the_list_says_what_there_is_to_say")
        assert __file__ in entry.origin
        by = ground.monitors.list
        assert [e.tag for e in by()] == ["t", "o"]
        assert [e.tag for e in by(owner="watcher")] == ["o"]
        assert [e.tag for e in by(target="target")] == ["t"]
        assert [e.tag for e in by(target=ground.incarnation("other"))] == ["o"]
        assert [e.tag for e in by(target="target", tag="o")] == []
        assert [e.tag for e in by(limit=1)] == ["t"]


def test_statistics_add_up(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        refs = ground.monitors.monitor_many([("target", n) for n in range(4)])
        session.monitor("nobody")
        ground.monitors.demonitor(refs[0])
        ground.die("target")
        session.monitor("other")
        stats = ground.monitors.stats()
        assert (stats.created, stats.active, stats.cleaned) == (6, 1, 5)
        assert (stats.removed, stats.target_died, stats.owner_died, stats.downs) == (1, 4, 0, 4)


def test_a_block_is_monitored_while_it_runs(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        with ground.monitors.monitored("target", "block") as ref:
            assert [entry.ref for entry in ground.monitors.list()] == [ref]
        assert ground.monitors.list() == []
        with pytest.raises(ZeroDivisionError), ground.monitors.monitored("target"):
            raise ZeroDivisionError
        assert ground.monitors.list() == []
        with ground.monitors.monitored("target"):
            ground.die("target")
        assert session.next_down(timeout_s=0) is None, "what was not taken in the block is flushed"


def test_somebody_must_own_a_monitor(ground: MonitorsUnderTest) -> None:
    with pytest.raises(NoOwner, match="with orchestrator"):
        ground.monitors.monitor("target")
    with pytest.raises(NoOwner), ground.monitors.monitored("target"):
        raise AssertionError("not reached")


def test_sessions_nest_and_belong_to_a_thread(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as outer:
        with ground.monitors.session() as inner:
            ground.monitors.monitor("target", "in")
        ground.monitors.monitor("target", "out")
        assert [(e.tag, e.owner) for e in ground.monitors.list()] == [("out", outer.id)]
        assert inner.id != outer.id
        with ThreadPoolExecutor(1) as pool:
            pool.submit(outer.monitor, "target", "elsewhere").result(SOON_S)
            with pytest.raises(NoOwner):
                pool.submit(ground.monitors.monitor, "target").result(SOON_S)


def test_waiting_for_a_down_ends_with_it(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session, ThreadPoolExecutor(1) as pool:
        ref = session.monitor("target")
        waiting = pool.submit(session.next_down, 20.0)
        ground.die("target")
        down = waiting.result(SOON_S)
        assert down is not None
        assert down.ref == ref


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), "5", 10**9])
def test_waits_have_an_end(ground: MonitorsUnderTest, timeout_s: Any) -> None:
    with ground.monitors.session() as session, pytest.raises(InvalidPolicy, match="timeout_s"):
        session.next_down(timeout_s)


def test_there_are_no_leaks_among_healthy_monitors(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session():
        ground.monitors.monitor_many([("target", n) for n in range(300)] + [("other", n) for n in range(300)])
        ground.monitors.monitor_many([("target", n) for n in range(300)], owner=ground.watcher())
        assert ground.monitors.find_leaks(age_s=3600) == []


def test_old_monitors_and_duplicates_are_leaks(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        first, second = session.monitor("target", "twice"), session.monitor("target", "twice")
        session.monitor("other", "twice")
        (leak,) = ground.monitors.find_leaks(age_s=3600)
        assert (leak.kind, leak.ref, leak.tag, leak.owner) == (LeakKind.DUPLICATE, second, "twice", session.id)
        assert f"monitor {first} " in leak.detail
        assert "in test_old_monitors_and_duplicates_are_leaks" in leak.origin
        assert leak.repair.startswith("remove it")
        kinds = [(leak.kind, leak.ref) for leak in ground.monitors.find_leaks(age_s=0)]
        assert (LeakKind.OLD, first) in kinds
        assert len(kinds) == 3
        assert [leak.ref for leak in ground.monitors.repair_leaks(ground.monitors.find_leaks(age_s=3600))] == [second]
        assert ground.monitors.find_leaks(age_s=3600) == []
        assert [e.ref for e in ground.monitors.list(target="target")] == [first]


def test_dead_ones_are_no_leaks(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        session.monitor("target")
        ground.monitors.monitor("other", owner=ground.watcher())
        ground.die("target")
        ground.die("watcher")
        assert ground.monitors.find_leaks(age_s=0) == []


def test_many_at_once_from_many_threads(ground: MonitorsUnderTest) -> None:
    """Made, removed and told concurrently; each monitor ends in exactly one way."""
    downs: list[Down] = []
    with ground.monitors.session() as session, ThreadPoolExecutor(8) as pool:
        go = threading.Barrier(8)

        def work(n: int) -> list[int]:
            go.wait(SOON_S)
            kept = []
            for i in range(25):
                ref = session.monitor("target", [n, i])
                if i % 3:
                    kept.append(ref)
                else:
                    assert ground.monitors.demonitor(ref)
            return kept

        kept = sorted(ref for refs in pool.map(work, range(8)) for ref in refs)
        ground.die("target")
        while len(downs) < len(kept) and (down := session.next_down(SOON_S)) is not None:
            downs.append(down)
        assert session.next_down(timeout_s=0) is None
    assert sorted(down.ref for down in downs) == kept


def test_made_and_removed_in_quick_succession(ground: MonitorsUnderTest) -> None:
    with ground.monitors.session() as session:
        for n in range(200):
            with ground.monitors.monitored("target", n):
                pass
        ground.die("target")
        assert session.next_down(timeout_s=0) is None
        stats = ground.monitors.stats()
        assert (stats.created, stats.removed, stats.active) == (200, 200, 0)


def test_eventually_nothing_is_left(ground: MonitorsUnderTest) -> None:
    ground.monitors.monitor_many([("target", n) for n in range(450)], owner=ground.watcher())
    ground.die("target")
    assert eventually(lambda: len(ground.heard())) == 450
    assert ground.monitors.stats().active == 0
