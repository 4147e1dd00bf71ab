"""Replays, edits, parking and purges in the dead-letter log: the same tests in Redis and in memory."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator.core.errors import (
    CallerError,
    InvalidMessage,
    InvalidPolicy,
    MailboxFull,
    UnknownDeadLetter,
)
from orchestrator.deadletters.replay import Canary
from orchestrator.maintenance.dead_letters import MaintenanceResult
from orchestrator.telemetry import Event, events
from tests.support.dead_letter_runs import RETRYING, ids, run_maintenance
from tests.support.letters_under_test import LettersUnderTest


def test_a_retried_letter_is_gone_and_its_successor_knows_it(bench: LettersUnderTest) -> None:
    letter_id = bench.add_letter(metadata={"tags": [], "big": 2**60, "pi": 3.14159265358979})
    raw = bench.log.get(letter_id).raw
    assert bench.log.replay(letter_id) == "d1"
    with pytest.raises(UnknownDeadLetter):
        bench.log.get(letter_id)
    (again,) = bench.die_again()
    assert again.replay_of == letter_id
    assert (again.lineage.first, again.lineage.replays, again.lineage.auto) == (letter_id, 1, 0)
    assert dict(again.metadata) == {"tags": [], "big": 2**60, "pi": 3.14159265358979}
    if bench.keeps_bytes:
        assert again.raw == raw
    bench.log.replay(again.id)
    (third,) = bench.die_again()
    assert (third.replay_of, third.lineage.first, third.lineage.replays) == (again.id, letter_id, 2)


def test_a_retried_message_is_a_first_attempt(bench: LettersUnderTest) -> None:
    letter_id = bench.add_letter()
    bench.log.replay(letter_id)
    (headers,) = bench.sent_headers()
    assert headers["retries"] == 0
    assert "failures" not in headers["orc"]
    assert headers["orc"]["replay_of"] == letter_id
    assert headers["orc_lineage"]["of"] == letter_id


def test_retrying_all_sends_each_once(bench: LettersUnderTest) -> None:
    for _ in range(450):
        bench.add_letter(queue="billing")
    done = bench.log.query().replay(all=True)
    assert (done.sent, bench.log.count(), bench.accepted()) == (450, 0, 450)
    assert bench.log.query().replay(all=True).sent == 0


def test_what_two_operators_retry_at_once_is_sent_once(bench: LettersUnderTest) -> None:
    for _ in range(600):
        bench.add_letter()
    sent: list[int] = []
    gate = threading.Barrier(4)

    def press() -> None:
        gate.wait()
        sent.append(bench.log.query(agent="billing").replay(who="someone").sent)

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(sent) == bench.accepted() == 600
    assert bench.log.count() == 0


def test_a_rate_holds(bench: LettersUnderTest) -> None:
    for _ in range(12):
        bench.add_letter()
    waited: list[float] = []
    clock = [0.0]

    def wait(_: Any, seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.deadletters.replay.monotonic", lambda: clock[0])
        patch.setattr("threading.Event.wait", wait)
        assert bench.log.query().replay(all=True, rate_per_s=10).sent == 12
    assert sum(waited) == pytest.approx(1.2)
    with pytest.raises(InvalidPolicy, match="rate_per_s"):
        bench.log.query().replay(all=True, rate_per_s=0)


def test_a_canary_that_dies_stops_the_replay(bench: LettersUnderTest, heard: list[Event]) -> None:
    for _ in range(30):
        bench.add_letter()
    bench.all_die = True
    with bench.worker():
        done = bench.log.query().replay(all=True, canary=Canary(max_failure_rate=0.5, wait_s=20))
    assert (done.sent, done.dead) == (1, 1)
    assert "1 of 1 have died again" in done.stopped
    assert bench.log.count() == 30
    assert events.REPLAY_STOPPED in [event.name for event in heard]


def test_a_canary_that_lives_lets_the_others_go(bench: LettersUnderTest) -> None:
    for _ in range(130):
        bench.add_letter()
    with bench.worker():
        done = bench.log.query().replay(all=True, canary=Canary(wait_s=20))
    assert (done.sent, done.dead, done.stopped) == (130, 0, "")
    assert bench.log.count() == 0


def test_a_canary_sees_those_who_die_without_a_letter(bench: LettersUnderTest) -> None:
    for _ in range(30):
        bench.add_letter()
    bench.all_die = "silently"
    with bench.worker():
        done = bench.log.query().replay(all=True, canary=Canary(max_failure_rate=0.5, wait_s=20))
    assert (done.sent, done.dead) == (1, 1)
    assert "1 of 1 have died again" in done.stopped
    assert bench.log.count() == 29


def lots_of(bench: LettersUnderTest, patch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    """The sizes in which letters are sent again."""
    letter_store: Any = bench.log.store
    replay, sizes = letter_store.replay_found, []

    def noted(*args: Any, **more: Any) -> Any:
        replayed = replay(*args, **more)
        sizes.append(replayed.processed)
        return replayed

    patch.setattr(letter_store, "replay_found", noted)
    with bench.worker():
        done = bench.log.query().replay(all=True, canary=Canary(wait_s=20), **options)
    assert (done.sent, done.stopped) == (sum(sizes), "")
    return sizes


def test_a_canary_sends_one_then_ten_then_a_hundred_at_a_time(
    bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(230):
        bench.add_letter()
    assert lots_of(bench, monkeypatch) == [1, 10, 100, 100, 19]


def test_a_rate_holds_within_a_canarys_lots(bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(40):
        bench.add_letter()
    assert lots_of(bench, monkeypatch, rate_per_s=200) == [1, 10, 20, 9]


def test_a_bulk_retry_stops_at_a_full_mailbox_and_says_so(bench: LettersUnderTest, heard: list[Event]) -> None:
    first = [bench.add_letter() for _ in range(60)]
    bench.bound("billing", 40)
    done = bench.log.query().replay(all=True)
    assert (done.sent, bench.accepted()) == (40, 40)
    assert "billing" in done.stopped
    assert "full" in done.stopped
    assert ids(reversed(bench.log.list(100))) == first[40:]
    assert bench.log.audit(1)[0].done == 40
    assert [event.name for event in heard].count(events.REPLAY_STOPPED) == 1
    with pytest.raises(MailboxFull):
        bench.log.replay(first[-1])
    assert bench.log.get(first[-1]).id == first[-1]


def test_a_full_mailbox_keeps_no_other_letter_of_the_lot_back(bench: LettersUnderTest) -> None:
    # More than one step moves, so that some are left for the next.
    for _ in range(6):
        bench.add_letter(body={"text": "x" * 300_000})
    for _ in range(6):
        bench.add_letter(agent="audit", queue="audit", body={"text": "x" * 300_000})
    bench.bound("billing", 1)
    done = bench.log.query().replay(all=True)
    assert done.sent == 7
    assert "billing" in done.stopped
    assert bench.log.query(agent="audit").count() == 0


def test_an_edited_letter_is_sent_as_edited_and_keeps_its_line(bench: LettersUnderTest) -> None:
    letter_id = bench.add_letter(body={"order_id": "o1", "cents": -5})
    edit = bench.log.edit(letter_id, {"cents": 500})
    changed = [line for line in edit.diff().splitlines() if line[0] in "+-" and "cents" in line]
    assert [line.replace(" ", "") for line in changed] == ['-"cents":-5', '+"cents":500']
    assert bench.log.count() == 1
    assert bench.log.edit_and_replay(letter_id, {"cents": 500}, who="ann", why="wrong sign") == "d1"
    (again,) = bench.die_again()
    assert again.body()[0] == [{"order_id": "o1", "cents": 500}]
    assert again.replay_of == letter_id
    (act,) = [act for act in bench.log.audit() if act.kind == "edit"]
    assert (act.who, act.why, act.done) == ("ann", "wrong sign", 1)


def test_an_edit_must_fit_the_model(bench: LettersUnderTest) -> None:
    letter_id = bench.add_letter(body={"order_id": "o1", "cents": 5})
    with pytest.raises(InvalidMessage, match="cents"):
        bench.log.edit(letter_id, {"cents": "many"})
    with pytest.raises(InvalidMessage, match="colour"):
        bench.log.edit_and_replay(letter_id, {"colour": "red"})
    with pytest.raises(CallerError, match="allowed"):
        bench.log.edit(letter_id, {})
    assert bench.log.count() == 1


def test_a_diff_shows_no_secrets(bench: LettersUnderTest) -> None:
    letter_id = bench.add_letter(agent="", message="", task="plain.pay", kwargs={"password": "hunter2", "a": 1})
    diff = bench.log.edit(letter_id, {"password": "hunter3", "a": 2}).diff()
    assert "hunter" not in diff
    assert '"a": 2' in diff


def test_a_parked_letter_is_out_of_the_way_until_it_is_unparked(bench: LettersUnderTest) -> None:
    keep_me, open_one = bench.add_letter(), bench.add_letter()
    log = bench.log
    log.park(keep_me, "ask the bank", who="ann")
    assert ids(log.query().page().letters) == [open_one]
    assert ids(log.query(state="parked").page().letters) == [keep_me]
    assert log.query(state="all").count() == log.count() == 2
    assert (log.query().count(), log.query(state="parked", agent="billing").count()) == (1, 1)
    letter = log.get(keep_me)
    assert (letter.state, letter.note["note"], letter.note["who"]) == ("parked", "ask the bank", "ann")
    assert log.query().replay(all=True).sent == 1
    log.unpark(keep_me)
    assert log.get(keep_me).state == "open"
    assert log.query().count() == 1
    assert log.query().park("again", all=True) == 1
    assert log.query(state="parked").unpark() == 1


def test_a_selection_can_be_of_those_that_are_there_now(bench: LettersUnderTest) -> None:
    log = bench.log
    nothing = log.query().until_now()
    made = [bench.add_letter(agent=agent) for agent in ("billing", "shipping", "billing")]
    parts = log.query().until_now(), log.query(agent="billing").until_now(), log.query(older_than_s=60).until_now()
    late = bench.add_letter()
    # Nor does it take what has grown old enough meanwhile.
    bench.let_pass(61)
    assert [part.count() for part in (nothing, *parts)] == [0, 3, 2, 0]
    assert log.query(older_than_s=60).until_now().count() == 4
    first = parts[0].page(2)
    assert ids(first.letters) == made[:0:-1]
    assert ids(parts[0].page(2, before=first.before).letters) == made[:1]
    assert [part.purge(all=True) for part in (nothing, parts[2], parts[1], parts[0])] == [0, 0, 2, 1]
    assert ids(log.list()) == [late]


def test_how_many_are_wanted_is_a_number_from_0(bench: LettersUnderTest) -> None:
    bench.add_letter()
    log = bench.log
    assert (log.list(0), list(log.audit(0)), log.query().page(0).letters, log.query().groups(0)) == ([], [], (), [])
    asks: list[Any] = [log.list, log.audit, log.query().page, log.query().groups]
    for ask in asks:
        for limit in (-1, 1.5, "5", None, True):
            with pytest.raises(InvalidPolicy, match="limit="):
                ask(limit)


def test_what_was_parked_is_not_sent_again_by_itself_once_it_is_open(bench: LettersUnderTest) -> None:
    log = bench.log
    before, after = bench.add_letter(), bench.add_letter()
    log.park(before, "by hand, before it was planned")
    run_maintenance(log, RETRYING)
    log.park(after, "by hand, when it was planned")
    log.unpark(before)
    log.unpark(after)
    bench.let_pass(3600)
    assert run_maintenance(log, RETRYING) == MaintenanceResult()
    assert log.query().replay(all=True).sent == 2


def test_purging_takes_what_the_filter_means(bench: LettersUnderTest, heard: list[Event]) -> None:
    bench.add_letter(agent="billing")
    shipping = bench.add_letter(agent="shipping")
    parked = bench.add_letter(agent="billing")
    bench.log.park(parked, "keep")
    assert bench.log.query(agent="billing").purge() == 1
    assert set(ids(bench.log.list())) == {shipping, parked}
    assert bench.log.purge(all=True) == 2
    assert bench.log.count() == 0
    assert [e.measurements["count"] for e in heard if e.name == events.PURGED] == [1, 2]


def test_every_act_is_recorded(bench: LettersUnderTest) -> None:
    letter_id = bench.add_letter()
    bench.log.park(letter_id, "n", who="ann", why="because")
    bench.log.unpark(letter_id, who="bob")
    bench.log.query(agent="billing").replay(who="eve", why="fixed")
    acts = bench.log.audit()
    assert [(a.kind, a.who, a.why, a.done) for a in acts] == [
        ("replay", "eve", "fixed", 1),
        ("unpark", "bob", "", 1),
        ("park", "ann", "because", 1),
    ]
    assert acts[0].detail["filter"] == {"agent": "billing", "state": "open"}
    bench.die_again()
    assert bench.log.audit(1)[0].dead == 1
    bench.log.replay(bench.log.list()[0].id)
    assert "@" in bench.log.audit(1)[0].who
