"""What a scheduler does in Redis: each due time is accepted once, whoever asks, and the ledger of fires balances."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator.core.admission.flow_policy import Flow, Mailbox
from orchestrator.core.schedules.state import delivery_id_of
from orchestrator.core.schedules.triggers import Once
from orchestrator.core.schedules.values import AgentRecipient, Misfire, Overlap, TaskRecipient
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.firing.service import ScheduleService
from orchestrator.schedules.redis import scripts
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.redis import commands
from tests.support.lost_answers import LostAnswers
from tests.support.schedules_under_test import Schedules, scheduling_app


@pytest.fixture
def schedules(redis_url: str) -> Iterator[Schedules]:
    """An empty Redis, with an app that knows an agent and a task."""
    made = Schedules(scheduling_app(redis_url))
    yield made
    made.app.close()


def test_a_due_time_becomes_one_message_with_the_id_of_schedule_and_time(schedules: Schedules) -> None:
    schedules.declare(due_s=1)
    nominal_ms = int(schedules.state()["n"])
    schedules.scheduler().tick()
    (message,) = schedules.messages()
    assert message["headers"]["id"] == delivery_id_of("nightly", nominal_ms)
    assert message["headers"]["task"] == "ledgers.Reconcile"
    metadata = message["headers"]["orc"]["metadata"]
    assert metadata["schedule"] == "nightly"
    assert metadata["scheduled_for"].endswith("Z")
    assert int(schedules.state()["n"]) == nominal_ms + 60_000
    assert schedules.ledger() == {"due": 1, "fired": 1}


def test_what_is_not_due_does_not_fire(schedules: Schedules) -> None:
    schedules.declare(due_s=-30)
    assert schedules.scheduler().tick() > 0.5
    assert schedules.messages() == []


def test_two_schedulers_with_the_same_reading_fire_once(schedules: Schedules) -> None:
    schedules.declare(due_s=1)
    rivals = [schedules.scheduler(name)._firing for name in "ab"]
    decisions = []
    for rival in rivals:
        # Each has read before the other acts, as after a stop longer than its turn.
        schedules.redis.delete(schedules.keys.scheduler)
        (reply,) = rival._run([rival._due_call(0, "mark", 10)])
        due = Due.of(reply)
        decisions.append(rival._decide_all(due.now_ms, due.schedules))
    replies = [rival._run(list(rival._fire_calls(some)))[0] for rival, some in zip(rivals, decisions, strict=True)]
    statuses = [reply[1:] for reply in replies]
    assert statuses == [[b"fired"], [b"stale"]]
    assert len(schedules.messages()) == 1
    assert schedules.ledger() == {"due": 1, "fired": 1}


def test_only_one_scheduler_has_the_turn_and_the_next_takes_a_free_one(schedules: Schedules) -> None:
    first, second = schedules.scheduler("a"), schedules.scheduler("b")
    first.tick()
    second.tick()
    assert (first.is_mine, second.is_mine) == (True, False)
    schedules.store.run(*scripts.end_turn(schedules.keys, "a"))
    second.tick()
    assert second.is_mine


def test_a_substitute_schedules_after_a_while_and_gives_way_to_a_beat(schedules: Schedules) -> None:
    beat, stand_in = schedules.scheduler("beat"), schedules.scheduler("worker", stale_s=3)

    def takes_turn(scheduler: ScheduleService) -> bool:
        scheduler.tick()
        return scheduler.is_mine

    assert takes_turn(beat)
    schedules.store.run(*scripts.end_turn(schedules.keys, "beat"))
    assert not takes_turn(stand_in), "a beat scheduled a moment ago"
    schedules.redis.hset(schedules.keys.scheduler, "at_ms", schedules.now_ms() - 4000)
    assert takes_turn(stand_in)
    assert not takes_turn(beat), "it waits for the turn"
    assert not takes_turn(stand_in), "it gives way"
    assert takes_turn(beat)


def test_missed_times_are_coalesced_into_the_last_one(schedules: Schedules) -> None:
    schedules.declare(due_s=95, every_s=10)
    schedules.scheduler().tick()
    assert len(schedules.messages()) == 1
    assert schedules.ledger() == {"due": 10, "fired": 1, "coalesced": 9}
    assert schedules.is_balanced()


def test_with_misfire_all_each_time_fires_in_its_order(schedules: Schedules) -> None:
    schedules.declare(due_s=95, every_s=10, misfire=Misfire.ALL)
    first_ms = int(schedules.state()["n"])
    schedules.scheduler().tick()
    assert schedules.ids() == [delivery_id_of("nightly", first_ms + 10_000 * n) for n in range(10)]
    assert schedules.ledger() == {"due": 10, "fired": 10}


def test_what_is_beyond_the_grace_is_missed_with_that_reason(schedules: Schedules) -> None:
    schedules.declare(due_s=9.5, every_s=60, misfire_grace_s=5.0)
    schedules.scheduler().tick()
    assert schedules.messages() == []
    assert schedules.ledger() == {"due": 1, "missed": 1, "missed: beyond grace": 1}
    (record,) = schedules.history()
    assert (record["a"], record["w"]) == ("missed", "beyond grace")


def test_a_full_mailbox_is_tried_again_and_then_missed_with_that_reason(schedules: Schedules) -> None:
    declare_flow(schedules.store, "ledgers", Flow(Mailbox(limit=1, overflow="reject"), None), serves=False)
    schedules.declare("first", due_s=2)
    scheduler = schedules.scheduler()
    scheduler.tick()
    schedules.declare("second", due_s=1, misfire_grace_s=5.0)
    scheduler.tick()
    assert schedules.state("second")["g"] == "mailbox full"
    assert schedules.ledger() == {"due": 1, "fired": 1}
    _make_due(schedules, "second", ago_ms=6000)
    scheduler.tick()
    assert schedules.ledger() == {"due": 2, "fired": 1, "missed": 1, "missed: mailbox full": 1}
    assert "g" not in schedules.state("second")


def test_a_one_off_ends(schedules: Schedules) -> None:
    schedules.declare("once", trigger=Once(schedules.now_ms() - 1000))
    schedules.scheduler().tick()
    assert len(schedules.messages()) == 1
    assert "n" not in schedules.state("once")
    assert schedules.state("once")["e"]
    assert schedules.redis.zcard(schedules.keys.schedules_due) == 0


def test_a_plain_task_is_fired_as_a_supervised_send(schedules: Schedules) -> None:
    schedules.declare("poll", due_s=1, recipient=TaskRecipient("scheduling.poll", (7,)))
    schedules.scheduler().tick()
    (message,) = schedules.messages("celery")
    assert message["headers"]["task"] == "scheduling.poll"
    assert message["headers"]["orc"]["metadata"]["schedule"] == "poll"


def test_a_countdown_is_kept(schedules: Schedules) -> None:
    schedules.declare("poll", due_s=1, recipient=TaskRecipient("scheduling.poll", (7,), options={"countdown": 60}))
    schedules.scheduler().tick()
    assert schedules.messages("celery") == []
    assert schedules.redis.zcard(schedules.keys.delayed("celery")) == 1
    assert schedules.ledger() == {"due": 1, "fired": 1}


@pytest.mark.parametrize("done_first", [True, False])
def test_a_lost_answer_neither_doubles_nor_stalls(schedules: Schedules, redis_url: str, done_first: bool) -> None:
    schedules.declare(due_s=1)
    with LostAnswers(redis_url) as proxy:
        scheduler = schedules.scheduler(url=proxy.url)
        nominal = schedules.state()["n"]
        # What holds the nominal time is the call that fires; a second one is its repetition.
        proxy.lose(1, nominal, done_first=done_first)
        for _ in range(3):
            scheduler.tick()
        assert proxy.left == 0
    assert len(schedules.messages()) == 1
    assert schedules.ledger() == {"due": 1, "fired": 1}


def test_a_definition_that_cannot_be_read_is_set_aside_and_stops_no_other(schedules: Schedules) -> None:
    schedules.declare("broken", due_s=2)
    schedules.declare("newer", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.hset(schedules.keys.schedules, "broken", "{]")
    schedules.redis.hset(schedules.keys.schedules, "newer", json.dumps({"v": 99}))
    schedules.scheduler().tick()
    assert len(schedules.messages()) == 1
    assert set(schedules.redis.hkeys(schedules.keys.schedules_broken)) == {b"broken", b"newer"}
    assert schedules.redis.hexists(schedules.keys.schedules, "broken"), "it is never deleted"


def test_an_unknown_agent_is_tried_again(schedules: Schedules) -> None:
    schedules.declare("lost", due_s=1, recipient=AgentRecipient("nobody", "Nothing"))
    schedules.declare("good", due_s=1)
    schedules.scheduler().tick()
    assert len(schedules.messages()) == 1
    assert schedules.redis.zscore(schedules.keys.schedules_due, "lost") > schedules.now_ms()


def test_overlap_waits_for_the_recorded_outcome(schedules: Schedules) -> None:
    schedules.declare(due_s=0.9, every_s=1, overlap=Overlap.SKIP)
    scheduler = schedules.scheduler()
    scheduler.tick()
    (running,) = schedules.ids()
    assert schedules.state()["u"] == running
    _make_due(schedules)
    scheduler.tick()
    assert schedules.ledger()["skipped: overlap"] >= 1
    _settle(schedules, "handled")
    assert "u" not in schedules.state()
    _make_due(schedules)
    scheduler.tick()
    assert len(schedules.ids()) == 1, "the first was taken, and another was fired"
    assert schedules.is_balanced()


def test_one_buffered_fire_follows_the_outcome(schedules: Schedules) -> None:
    schedules.declare(due_s=0.9, every_s=1, overlap=Overlap.BUFFER_ONE)
    scheduler = schedules.scheduler()
    scheduler.tick()
    _make_due(schedules)
    scheduler.tick()
    buffered = int(schedules.state()["q"])
    assert len(schedules.ids()) == 1
    _settle(schedules, "handled")
    scheduler.tick()
    assert schedules.ids() == [delivery_id_of("nightly", buffered)]
    assert schedules.is_balanced()


def test_a_failed_fire_pauses_its_schedule(schedules: Schedules) -> None:
    schedules.declare(due_s=1, every_s=60, pause_on_failure=True)
    schedules.scheduler().tick()
    _settle(schedules, "dead")
    assert "was not handled" in schedules.state()["p"]
    assert schedules.redis.zcard(schedules.keys.schedules_due) == 0


def _make_due(schedules: Schedules, name: str = "nightly", ago_ms: int = 10) -> None:
    """Its next time came a moment ago."""
    now = schedules.now_ms()
    shift = int(schedules.state(name)["n"]) - now + ago_ms
    state = schedules.keys.schedule(name)
    for field in ("n", "a"):
        schedules.redis.hincrby(state, field, -shift)
    schedules.redis.zadd(schedules.keys.schedules_due, {name: now - ago_ms})


def _settle(schedules: Schedules, outcome: str) -> None:
    """A worker takes the message in the mailbox, and records its outcome."""
    k, store = schedules.keys, schedules.store
    stream = k.stream("ledgers", store.levels[1])
    (delivery,) = schedules.ids()
    schedules.redis.xgroup_create(stream, store.group, id="0")
    ((_, ((entry, _),)),) = schedules.redis.xreadgroup(store.group, "worker", {stream: ">"})
    json_text = json.dumps({"outcome": outcome})
    call = commands.settle_with_outcome(
        stream, k.ledger("ledgers"), k.outcome(delivery), entry.decode(), outcome, json_text, 60_000
    )
    store.run(*call)
    schedules.redis.xgroup_destroy(stream, store.group)
