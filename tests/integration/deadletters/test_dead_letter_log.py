"""Replays, edits, parking and purges in the dead-letter log: the same tests in Redis and in memory."""

from __future__ import annotations

import threading
from types import SimpleNamespace
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


def test_a_retried_letter_is_gone_and_its_successor_knows_it(letter_log: LettersUnderTest) -> None:
    letter_id = letter_log.add_letter(metadata={"tags": [], "big": 2**60, "pi": 3.14159265358979})
    raw = letter_log.log.get(letter_id).raw
    assert letter_log.log.replay(letter_id) == "d1"
    with pytest.raises(UnknownDeadLetter):
        letter_log.log.get(letter_id)
    (again,) = letter_log.die_again()
    assert again.replay_of == letter_id
    assert (again.lineage.first, again.lineage.replays, again.lineage.auto) == (letter_id, 1, 0)
    assert dict(again.metadata) == {"tags": [], "big": 2**60, "pi": 3.14159265358979}
    if letter_log.keeps_bytes:
        assert again.raw == raw
    letter_log.log.replay(again.id)
    (third,) = letter_log.die_again()
    assert (third.replay_of, third.lineage.first, third.lineage.replays) == (again.id, letter_id, 2)


def test_a_retried_message_is_a_first_attempt(letter_log: LettersUnderTest) -> None:
    letter_id = letter_log.add_letter()
    letter_log.log.replay(letter_id)
    (headers,) = letter_log.sent_headers()
    assert headers["retries"] == 0
    assert "failures" not in headers["orc"]
    assert headers["orc"]["replay_of"] == letter_id
    assert headers["orc_lineage"]["of"] == letter_id


def test_retrying_all_sends_each_once(letter_log: LettersUnderTest) -> None:
    for _ in range(450):
        letter_log.add_letter(queue="billing")
    done = letter_log.log.query().replay(all=True)
    assert (done.sent, letter_log.log.count(), letter_log.accepted()) == (450, 0, 450)
    assert letter_log.log.query().replay(all=True).sent == 0


def test_what_two_operators_retry_at_once_is_sent_once(letter_log: LettersUnderTest) -> None:
    for _ in range(600):
        letter_log.add_letter()
    sent: list[int] = []
    gate = threading.Barrier(4)

    def press() -> None:
        gate.wait()
        sent.append(letter_log.log.query(agent="billing").replay(who="someone").sent)

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(sent) == letter_log.accepted() == 600
    assert letter_log.log.count() == 0


def test_a_rate_holds(letter_log: LettersUnderTest) -> None:
    for _ in range(12):
        letter_log.add_letter()
    waited: list[float] = []
    clock = [0.0]

    class Pause:
        """For the module alone: other threads of this process wait, too."""

        def wait(self, seconds: float) -> None:
            waited.append(seconds)
            clock[0] += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.deadletters.replay.monotonic", lambda: clock[0])
        patch.setattr("orchestrator.deadletters.replay.threading", SimpleNamespace(Event=Pause))
        assert letter_log.log.query().replay(all=True, rate_per_s=10).sent == 12
    assert sum(waited) == pytest.approx(1.2)
    with pytest.raises(InvalidPolicy, match="rate_per_s"):
        letter_log.log.query().replay(all=True, rate_per_s=0)


def test_a_canary_that_dies_stops_the_replay(letter_log: LettersUnderTest, heard: list[Event]) -> None:
    for _ in range(30):
        letter_log.add_letter()
    letter_log.all_die = True
    with letter_log.worker():
        done = letter_log.log.query().replay(all=True, canary=Canary(max_failure_rate=0.5, wait_s=20))
    assert (done.sent, done.dead) == (1, 1)
    assert "1 of 1 have died again" in done.stopped
    assert letter_log.log.count() == 30
    assert events.REPLAY_STOPPED in [event.name for event in heard]


def test_a_canary_that_lives_lets_the_others_go(letter_log: LettersUnderTest) -> None:
    for _ in range(130):
        letter_log.add_letter()
    with letter_log.worker():
        done = letter_log.log.query().replay(all=True, canary=Canary(wait_s=20))
    assert (done.sent, done.dead, done.stopped) == (130, 0, "")
    assert letter_log.log.count() == 0


def test_a_canary_sees_those_who_die_without_a_letter(letter_log: LettersUnderTest) -> None:
    for _ in range(30):
        letter_log.add_letter()
    letter_log.all_die = "silently"
    with letter_log.worker():
        done = letter_log.log.query().replay(all=True, canary=Canary(max_failure_rate=0.5, wait_s=20))
    assert (done.sent, done.dead) == (1, 1)
    assert "1 of 1 have died again" in done.stopped
    assert letter_log.log.count() == 29


def lots_of(letter_log: LettersUnderTest, patch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    """The sizes in which letters are sent again."""
    letter_store: Any = letter_log.log.store
    replay, sizes = letter_store.replay_found, []

    def noted(*args: Any, **more: Any) -> Any:
        replayed = replay(*args, **more)
        sizes.append(replayed.processed)
        return replayed

    patch.setattr(letter_store, "replay_found", noted)
    with letter_log.worker():
        done = letter_log.log.query().replay(all=True, canary=Canary(wait_s=20), **options)
    assert (done.sent, done.stopped) == (sum(sizes), "")
    return sizes


def test_a_canary_sends_one_then_ten_then_a_hundred_at_a_time(
    letter_log: LettersUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(230):
        letter_log.add_letter()
    assert lots_of(letter_log, monkeypatch) == [1, 10, 100, 100, 19]


def test_a_rate_holds_within_a_canarys_lots(letter_log: LettersUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(40):
        letter_log.add_letter()
    assert lots_of(letter_log, monkeypatch, rate_per_s=200) == [1, 10, 20, 9]


def test_a_bulk_replay_stops_at_a_full_mailbox_and_says_so(letter_log: LettersUnderTest, heard: list[Event]) -> None:
    first = [letter_log.add_letter() for _ in range(60)]
    letter_log.bound("billing", 40)
    done = letter_log.log.query().replay(all=True)
    assert (done.sent, letter_log.accepted()) == (40, 40)
    assert "billing" in done.stopped
    assert "full" in done.stopped
    assert ids(reversed(letter_log.log.list(100))) == first[40:]
    assert letter_log.log.audit(1)[0].done == 40
    assert [event.name for event in heard].count(events.REPLAY_STOPPED) == 1
    with pytest.raises(MailboxFull):
        letter_log.log.replay(first[-1])
    assert letter_log.log.get(first[-1]).id == first[-1]


def test_a_full_mailbox_keeps_no_other_letter_of_the_batch_back(letter_log: LettersUnderTest) -> None:
    # More than one step moves, so that some are left for the next.
    for _ in range(6):
        letter_log.add_letter(body={"text": "x" * 300_000})
    for _ in range(6):
        letter_log.add_letter(agent="audit", queue="audit", body={"text": "x" * 300_000})
    letter_log.bound("billing", 1)
    done = letter_log.log.query().replay(all=True)
    assert done.sent == 7
    assert "billing" in done.stopped
    assert letter_log.log.query(agent="audit").count() == 0


def test_an_edited_letter_is_sent_as_edited_and_keeps_its_line(letter_log: LettersUnderTest) -> None:
    letter_id = letter_log.add_letter(body={"order_id": "o1", "cents": -5})
    edit = letter_log.log.edit(letter_id, {"cents": 500})
    changed = [line for line in edit.diff().splitlines() if line[0] in "+-" and "cents" in line]
    assert [line.replace(" ", "") for line in changed] == ['-"cents":-5', '+"cents":500']
    assert letter_log.log.count() == 1
    assert letter_log.log.edit_and_replay(letter_id, {"cents": 500}, who="ann", why="wrong sign") == "d1"
    (again,) = letter_log.die_again()
    assert again.body()[0] == [{"order_id": "o1", "cents": 500}]
    assert again.replay_of == letter_id
    (act,) = [act for act in letter_log.log.audit() if act.kind == "edit"]
    assert (act.who, act.why, act.done) == ("ann", "wrong sign", 1)


def test_an_edit_must_fit_the_model(letter_log: LettersUnderTest) -> None:
    letter_id = letter_log.add_letter(body={"order_id": "o1", "cents": 5})
    with pytest.raises(InvalidMessage, match="cents"):
        letter_log.log.edit(letter_id, {"cents": "many"})
    with pytest.raises(InvalidMessage, match="colour"):
        letter_log.log.edit_and_replay(letter_id, {"colour": "red"})
    with pytest.raises(CallerError, match="allowed"):
        letter_log.log.edit(letter_id, {})
    assert letter_log.log.count() == 1


def test_a_diff_shows_no_secrets(letter_log: LettersUnderTest) -> None:
    letter_id = letter_log.add_letter(agent="", message="", task="plain.pay", kwargs={"password": "hunter2", "a": 1})
    diff = letter_log.log.edit(letter_id, {"password": "hunter3", "a": 2}).diff()
    assert "hunter" not in diff
    assert '"a": 2' in diff


def test_a_parked_letter_is_out_of_the_way_until_it_is_unparked(letter_log: LettersUnderTest) -> None:
    keep_me, open_one = letter_log.add_letter(), letter_log.add_letter()
    log = letter_log.log
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


def test_a_selection_can_be_of_those_that_are_there_now(letter_log: LettersUnderTest) -> None:
    log = letter_log.log
    nothing = log.query().until_now()
    made = [letter_log.add_letter(agent=agent) for agent in ("billing", "shipping", "billing")]
    parts = log.query().until_now(), log.query(agent="billing").until_now(), log.query(older_than_s=60).until_now()
    late = letter_log.add_letter()
    # Nor does it take what has grown old enough meanwhile.
    letter_log.let_pass(61)
    assert [part.count() for part in (nothing, *parts)] == [0, 3, 2, 0]
    assert log.query(older_than_s=60).until_now().count() == 4
    first = parts[0].page(2)
    assert ids(first.letters) == made[:0:-1]
    assert ids(parts[0].page(2, before=first.before).letters) == made[:1]
    assert [part.purge(all=True) for part in (nothing, parts[2], parts[1], parts[0])] == [0, 0, 2, 1]
    assert ids(log.list()) == [late]


def test_how_many_are_wanted_is_a_number_from_0(letter_log: LettersUnderTest) -> None:
    letter_log.add_letter()
    log = letter_log.log
    assert (log.list(0), list(log.audit(0)), log.query().page(0).letters, log.query().groups(0)) == ([], [], (), [])
    asks: list[Any] = [log.list, log.audit, log.query().page, log.query().groups]
    for ask in asks:
        for limit in (-1, 1.5, "5", None, True):
            with pytest.raises(InvalidPolicy, match="limit="):
                ask(limit)


def test_what_was_parked_is_not_replayed_by_itself_once_it_is_open(letter_log: LettersUnderTest) -> None:
    log = letter_log.log
    before, after = letter_log.add_letter(), letter_log.add_letter()
    log.park(before, "by hand, before it was planned")
    run_maintenance(log, RETRYING)
    log.park(after, "by hand, when it was planned")
    log.unpark(before)
    log.unpark(after)
    letter_log.let_pass(3600)
    assert run_maintenance(log, RETRYING) == MaintenanceResult()
    assert log.query().replay(all=True).sent == 2


def test_purging_takes_what_the_filter_means(letter_log: LettersUnderTest, heard: list[Event]) -> None:
    letter_log.add_letter(agent="billing")
    shipping = letter_log.add_letter(agent="shipping")
    parked = letter_log.add_letter(agent="billing")
    letter_log.log.park(parked, "keep")
    assert letter_log.log.query(agent="billing").purge() == 1
    assert set(ids(letter_log.log.list())) == {shipping, parked}
    assert letter_log.log.purge(all=True) == 2
    assert letter_log.log.count() == 0
    assert [e.measurements["count"] for e in heard if e.name == events.PURGED] == [1, 2]


def test_every_action_is_in_the_audit(letter_log: LettersUnderTest) -> None:
    letter_id = letter_log.add_letter()
    letter_log.log.park(letter_id, "n", who="ann", why="because")
    letter_log.log.unpark(letter_id, who="bob")
    letter_log.log.query(agent="billing").replay(who="eve", why="fixed")
    acts = letter_log.log.audit()
    assert [(a.kind, a.who, a.why, a.done) for a in acts] == [
        ("replay", "eve", "fixed", 1),
        ("unpark", "bob", "", 1),
        ("park", "ann", "because", 1),
    ]
    assert acts[0].detail["filter"] == {"agent": "billing", "state": "open"}
    letter_log.die_again()
    assert letter_log.log.audit(1)[0].dead == 1
    letter_log.log.replay(letter_log.log.list()[0].id)
    assert "@" in letter_log.log.audit(1)[0].who
