"""The dead-letter log, where it lies in Redis and where it lies in memory: the same tests on both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pytest

from orchestrator.core.errors import (
    CallerError,
    InvalidExport,
    InvalidMessage,
    InvalidPolicy,
    MailboxFull,
    UnknownDeadLetter,
)
from orchestrator.core.message import Message, decode, encode
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.replay import Canary
from orchestrator.maintenance import dead_letters
from orchestrator.maintenance.dead_letters import MaintenanceResult, RetentionPolicy
from orchestrator.telemetry import Event, attach, detach, events
from tests.support.letters_under_test import LettersInMemory, LettersInRedis, LettersUnderTest


class Charge(Message):
    order_id: str
    cents: int


def validate(agent: str, message: str, fields: Any) -> Any:
    return encode(decode(Charge, fields)) if (agent, message) == ("billing", "Charge") else None


@pytest.fixture(params=["redis", "memory"])
def bench(request: pytest.FixtureRequest) -> Iterator[LettersUnderTest]:
    if request.param == "redis":
        made: LettersUnderTest = LettersInRedis(request.getfixturevalue("redis_url"), ("password",), validate)
    else:
        made = LettersInMemory(("password",), validate)
    yield made
    assert made.index_problems() == []
    made.close()


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    seen: list[Event] = []
    attach(seen.append)
    yield seen
    detach(seen.append)


def run_maintenance(log: DeadLetters, retention: RetentionPolicy) -> MaintenanceResult:
    """A run that has all the time it needs, however slow the machine is."""
    return dead_letters.run_maintenance(log, retention, budget_s=60)


def ids(letters: Any) -> list[str]:
    return [letter.id for letter in letters]


# -- asking


def test_an_empty_log_has_nothing(bench: LettersUnderTest) -> None:
    log = bench.log
    assert (log.list(), log.count(), log.query().page().letters, log.query().count(), log.query().groups()) == (
        [],
        0,
        (),
        0,
        [],
    )


def test_listing_is_limited_or_not(bench: LettersUnderTest) -> None:
    made = [bench.bury() for _ in range(7)]
    assert ids(bench.log.list(3)) == made[::-1][:3]
    assert ids(bench.log.list(1000)) == made[::-1]


def test_each_filter_finds_its_letters_and_all_of_them_together(bench: LettersUnderTest) -> None:
    plain = bench.bury(agent="billing", message="Charge", error="ValueError", reason="retries exhausted")
    other_agent = bench.bury(agent="shipping", message="Charge", error="ValueError", reason="retries exhausted")
    other_message = bench.bury(agent="billing", message="Refund", error="ValueError", reason="retries exhausted")
    other_error = bench.bury(agent="billing", message="Charge", error="KeyError", reason="retries exhausted")
    other_reason = bench.bury(agent="billing", message="Charge", error="ValueError", reason="timeout")

    def found(**options: Any) -> set[str]:
        page = bench.log.query(**options).page()
        assert bench.log.query(**options).count() == len(page.letters)
        return set(ids(page.letters))

    assert found(agent="billing") == {plain, other_message, other_error, other_reason}
    assert found(message="Charge") == {plain, other_agent, other_error, other_reason}
    assert found(error="ValueError") == {plain, other_agent, other_message, other_reason}
    assert found(reason="timeout") == {other_reason}
    assert found(agent="billing", message="Charge", error="ValueError", reason="retries exhausted") == {plain}
    assert found(agent="nobody") == set()
    group = bench.log.get(plain).group
    assert found(group=group, agent="billing") >= {plain}


def test_letters_of_many_kinds_come_in_the_order_in_which_they_died(bench: LettersUnderTest) -> None:
    agents, errors = ("billing", "shipping"), ("KeyError", "ValueError", "TypeError")
    made = [bench.bury(agent=agents[n % 2], error=errors[n % 3]) for n in range(240)]
    billing = made[::2]
    log, seen, before = bench.log, [], None
    while True:
        page = log.query(agent="billing").page(17, before=before)
        seen += ids(page.letters)
        if (before := page.before) is None:
            break
    assert seen == billing[::-1]
    # Some from the front of their kinds, and some from the middle.
    assert log.query(agent="billing").replay(at_most=110).sent == 110
    assert ids(log.query(agent="billing").page().letters) == billing[110:][::-1]
    for letter_id in (made[51], made[201], made[99]):
        log.replay(letter_id)
    left = [one for one in made[1::2] if one not in (made[51], made[201], made[99])]
    assert ids(log.query(agent="shipping").page(1000).letters) == left[::-1]
    assert (log.query(agent="shipping", error="KeyError").count(), log.query(agent="billing").count()) == (37, 10)
    assert log.query(agent="shipping").replay().sent == len(left)


@pytest.mark.parametrize("options", [{}, {"agent": "billing"}, {"reason": "timeout"}], ids=["all", "agent", "reason"])
def test_letters_of_more_kinds_than_are_merged_are_sent_oldest_first(bench: LettersUnderTest, options: Any) -> None:
    made = [bench.bury(error=f"Error{n % 70}", reason="timeout") for n in range(150)]
    log = bench.log
    assert log.query(**options).replay(all=True, at_most=110).sent == 110
    assert ids(log.query(**options).page(1000).letters) == made[110:][::-1]
    assert bench.index_problems() == []
    assert log.query(**options).replay(all=True).sent == 40
    assert (bench.accepted(), bench.log.count()) == (150, 0)


def test_small_and_large_letters_are_sent_oldest_first(bench: LettersUnderTest) -> None:
    errors = ("KeyError", "ValueError")
    made = [bench.bury(error=errors[n % 2], body={"text": "x" * (6000 if n % 3 else 6)}) for n in range(30)]
    log = bench.log
    raws = {letter.id: letter.raw for letter in log.list(100)}
    log.query(error="KeyError").park("later")
    assert log.query(agent="billing").replay(at_most=4).sent == 4
    assert log.query(agent="billing", state="parked").replay(at_most=4).sent == 4
    left = [one for n, one in enumerate(made) if n >= 8]
    assert ids(log.list(100)) == left[::-1]
    assert {letter.id: letter.raw for letter in log.list(100)} == {one: raws[one] for one in left}
    assert bench.index_problems() == []
    assert log.query(state="all").replay(all=True).sent == 22
    if bench.keeps_bytes:
        assert sorted(letter.raw for letter in bench.die_again()) == sorted(raws.values())


@pytest.mark.parametrize("agent", ["billing", None])
def test_parked_letters_are_sent_and_the_open_ones_between_them_stay(
    bench: LettersUnderTest, agent: str | None
) -> None:
    """Regression: their messages were cut off with those of the parked ones."""
    made = [bench.bury() for _ in range(6)]
    log = bench.log
    raws = {letter.id: letter.raw for letter in log.list()}
    for parked in made[::2]:
        log.park(parked, "later")
    assert log.query(state="parked", agent=agent).replay().sent == 3
    assert {letter.id: letter.raw for letter in log.list()} == {one: raws[one] for one in made[1::2]}
    assert bench.index_problems() == []
    assert log.query().replay(all=True).sent == 3


def test_letters_that_are_nearly_each_of_a_kind_are_found_too(bench: LettersUnderTest) -> None:
    made = [bench.bury(error=f"Error{n}") for n in range(1001)]
    log = bench.log
    log.query(error="Error7").park("look at it")
    assert ids(log.query(agent="billing").page(20).letters) == made[::-1][:20]
    assert ids(log.query(agent="billing", error="Error500").page().letters) == [made[500]]
    assert ids(log.query(agent="billing", state="parked").page().letters) == [made[7]]
    assert log.query(agent="nobody").page().letters == ()
    counted = [log.query(agent="billing", state=state).count() for state in ("open", "parked", "all")]
    assert counted == [1000, 1, 1001]
    assert len(list(log.store.values("error"))) == 1001
    # By their last arrival; some arrive in the same millisecond.
    assert set(islice(log.store.values("error"), 3)) <= {f"Error{n}" for n in range(980, 1001)}
    assert log.query(agent="billing").replay().sent == 1000


def test_ids_are_taken_out_in_whatever_order_they_are_named(bench: LettersUnderTest) -> None:
    made = [bench.bury() for _ in range(6)]
    log = bench.log
    act = log.record("purge", "ann", "")
    assert log.store.remove([made[0], made[3], made[1]], act) == [made[0], made[3], made[1]]
    assert log.store.remove([made[5], made[2]], act) == [made[5], made[2]]
    assert ids(log.list()) == [made[4]]


def test_large_letters_are_all_sent_again(bench: LettersUnderTest) -> None:
    made = [bench.bury(body={"order_id": "x" * 600_000, "cents": n}) for n in range(4)]
    assert bench.log.query().replay(all=True).sent == len(made)
    assert (bench.accepted(), bench.log.count()) == (len(made), 0)


def test_metadata_and_text_are_looked_for_in_the_letters(bench: LettersUnderTest) -> None:
    one = bench.bury(metadata={"job": 1, "tags": []}, text="the bank is closed")
    two = bench.bury(metadata={"job": 2}, body={"password": "hunter2"})
    log = bench.log
    assert ids(log.query(metadata={"job": 1}).page().letters) == [one]
    assert ids(log.query(metadata={"job": 2, "none": 1}).page().letters) == []
    assert ids(log.query(text="BANK is").page().letters) == [one]
    assert log.query(text="hunter2").count() == 0, "a secret can be searched for"
    assert log.query(metadata={"job": 2}).count() == 1
    assert ids(log.query(metadata={"job": 2}).page().letters) == [two]


def test_ages_count_from_the_burial(bench: LettersUnderTest) -> None:
    bench.bury()
    log = bench.log
    assert log.query(newer_than_s=3600).count() == 1
    assert log.query(older_than_s=3600).count() == 0
    assert log.query(older_than_s=0, newer_than_s=3600).count() == 1


def test_pages_do_not_shift_when_letters_come_and_go(bench: LettersUnderTest) -> None:
    made = [bench.bury() for _ in range(9)]
    chosen = bench.log.query(agent="billing")
    first = chosen.page(4)
    assert ids(first.letters) == made[::-1][:4]
    bench.bury()
    bench.log.store.remove([made[0], made[8]], bench.log.record("purge", "test", ""))
    second = chosen.page(4, before=first.before)
    assert ids(second.letters) == [made[4], made[3], made[2], made[1]]
    assert chosen.page(4, before=made[1]).letters == ()
    assert chosen.page(4, before=made[1]).before is None


@pytest.mark.parametrize(
    "options", [{"agent": ""}, {"state": "shut"}, {"older_than_s": -1}, {"metadata": 5}, {"newer_than_s": True}]
)
def test_a_filter_that_makes_no_sense_is_refused(bench: LettersUnderTest, options: Any) -> None:
    with pytest.raises(InvalidPolicy, match="allowed"):
        bench.log.query(**options)


def test_letters_that_died_of_the_same_are_a_group(bench: LettersUnderTest) -> None:
    first = bench.bury(error="ValueError", stack=("/a/bank.py", "pay"))
    last = bench.bury(error="ValueError", stack=("/b/elsewhere/bank.py", "pay"), line=99)
    other = bench.bury(error="ValueError", stack=("/a/bank.py", "refund"))
    newest, oldest = bench.log.query().groups()
    assert (newest.count, newest.example.id) == (1, other)
    assert (oldest.count, oldest.example.id) == (2, last)
    assert oldest.first_ms == int(first.split("-")[0])
    assert oldest.last_ms == int(last.split("-")[0])
    assert sum(oldest.arrivals) == 2
    assert len(oldest.arrivals) == len(oldest.sparkline) == 24
    assert bench.log.query(group=oldest.fingerprint).count() == 2


def test_the_groups_of_a_filter_are_found_behind_newer_ones_of_others(bench: LettersUnderTest) -> None:
    first = bench.bury(stack=("/a/bank.py", "pay"))
    bench.bury(agent="audit", queue="audit", stack=("/a/books.py", "close"))
    parked = bench.bury(stack=("/a/bank.py", "refund"))
    bench.log.park(parked, "later")
    for number in range(3):
        bench.bury(agent="crm", queue="crm", stack=("/a/crm.py", f"f{number}"))
    chosen = bench.log.query(agent="billing")
    assert [group.example.id for group in chosen.groups(1)] == [first]
    assert [group.example.id for group in bench.log.query(agent="billing", state="all").groups(2)] == [parked, first]
    assert [group.example.agent for group in bench.log.query(text="books").groups(1)] == ["audit"]
    assert bench.log.query(agent="nobody").groups() == []


# -- acting


def test_a_retried_letter_is_gone_and_its_successor_knows_it(bench: LettersUnderTest) -> None:
    letter_id = bench.bury(metadata={"tags": [], "big": 2**60, "pi": 3.14159265358979})
    raw = bench.log.get(letter_id).raw
    assert bench.log.replay(letter_id) == "billing"
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
    letter_id = bench.bury()
    bench.log.replay(letter_id)
    (headers,) = bench.sent_headers()
    assert headers["retries"] == 0
    assert "failures" not in headers["orc"]
    assert headers["orc"]["replay_of"] == letter_id
    assert headers["orc_lineage"]["of"] == letter_id


def test_retrying_all_sends_each_once(bench: LettersUnderTest) -> None:
    for _ in range(450):
        bench.bury(queue="billing")
    done = bench.log.query().replay(all=True)
    assert (done.sent, bench.log.count(), bench.accepted()) == (450, 0, 450)
    assert bench.log.query().replay(all=True).sent == 0


def test_what_two_operators_retry_at_once_is_sent_once(bench: LettersUnderTest) -> None:
    for _ in range(600):
        bench.bury()
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
        bench.bury()
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
        bench.bury()
    bench.all_die = True
    with bench.worker():
        done = bench.log.query().replay(all=True, canary=Canary(max_failure_rate=0.5, wait_s=20))
    assert (done.sent, done.dead) == (1, 1)
    assert "1 of 1 have died again" in done.stopped
    assert bench.log.count() == 30
    assert events.REPLAY_STOPPED in [event.name for event in heard]


def test_a_canary_that_lives_lets_the_others_go(bench: LettersUnderTest) -> None:
    for _ in range(130):
        bench.bury()
    with bench.worker():
        done = bench.log.query().replay(all=True, canary=Canary(wait_s=20))
    assert (done.sent, done.dead, done.stopped) == (130, 0, "")
    assert bench.log.count() == 0


def test_a_canary_sees_those_who_die_without_a_letter(bench: LettersUnderTest) -> None:
    for _ in range(30):
        bench.bury()
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
        bench.bury()
    assert lots_of(bench, monkeypatch) == [1, 10, 100, 100, 19]


def test_a_rate_holds_within_a_canarys_lots(bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(40):
        bench.bury()
    assert lots_of(bench, monkeypatch, rate_per_s=200) == [1, 10, 20, 9]


def test_a_bulk_retry_stops_at_a_full_mailbox_and_says_so(bench: LettersUnderTest, heard: list[Event]) -> None:
    first = [bench.bury() for _ in range(60)]
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
        bench.bury(body={"text": "x" * 300_000})
    for _ in range(6):
        bench.bury(agent="audit", queue="audit", body={"text": "x" * 300_000})
    bench.bound("billing", 1)
    done = bench.log.query().replay(all=True)
    assert done.sent == 7
    assert "billing" in done.stopped
    assert bench.log.query(agent="audit").count() == 0


def test_an_edited_letter_is_sent_as_edited_and_keeps_its_line(bench: LettersUnderTest) -> None:
    letter_id = bench.bury(body={"order_id": "o1", "cents": -5})
    edit = bench.log.edit(letter_id, {"cents": 500})
    changed = [line for line in edit.diff().splitlines() if line[0] in "+-" and "cents" in line]
    assert [line.replace(" ", "") for line in changed] == ['-"cents":-5', '+"cents":500']
    assert bench.log.count() == 1
    assert bench.log.edit_and_replay(letter_id, {"cents": 500}, who="ann", why="wrong sign") == "billing"
    (again,) = bench.die_again()
    assert again.body()[0] == [{"order_id": "o1", "cents": 500}]
    assert again.replay_of == letter_id
    (act,) = [act for act in bench.log.audit() if act.kind == "edit"]
    assert (act.who, act.why, act.done) == ("ann", "wrong sign", 1)


def test_an_edit_must_fit_the_model(bench: LettersUnderTest) -> None:
    letter_id = bench.bury(body={"order_id": "o1", "cents": 5})
    with pytest.raises(InvalidMessage, match="cents"):
        bench.log.edit(letter_id, {"cents": "many"})
    with pytest.raises(InvalidMessage, match="colour"):
        bench.log.edit_and_replay(letter_id, {"colour": "red"})
    with pytest.raises(CallerError, match="allowed"):
        bench.log.edit(letter_id, {})
    assert bench.log.count() == 1


def test_a_diff_shows_no_secrets(bench: LettersUnderTest) -> None:
    letter_id = bench.bury(agent="", message="", task="plain.pay", kwargs={"password": "hunter2", "a": 1})
    diff = bench.log.edit(letter_id, {"password": "hunter3", "a": 2}).diff()
    assert "hunter" not in diff
    assert '"a": 2' in diff


def test_a_parked_letter_is_out_of_the_way_until_it_is_unparked(bench: LettersUnderTest) -> None:
    keep_me, open_one = bench.bury(), bench.bury()
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
    made = [bench.bury(agent=agent) for agent in ("billing", "shipping", "billing")]
    parts = log.query().until_now(), log.query(agent="billing").until_now(), log.query(older_than_s=60).until_now()
    late = bench.bury()
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
    bench.bury()
    log = bench.log
    assert (log.list(0), list(log.audit(0)), log.query().page(0).letters, log.query().groups(0)) == ([], [], (), [])
    asks: list[Any] = [log.list, log.audit, log.query().page, log.query().groups]
    for ask in asks:
        for limit in (-1, 1.5, "5", None, True):
            with pytest.raises(InvalidPolicy, match="limit="):
                ask(limit)


def test_what_was_parked_is_not_sent_again_by_itself_once_it_is_open(bench: LettersUnderTest) -> None:
    log = bench.log
    before, after = bench.bury(), bench.bury()
    log.park(before, "by hand, before it was planned")
    run_maintenance(log, RETRYING)
    log.park(after, "by hand, when it was planned")
    log.unpark(before)
    log.unpark(after)
    bench.let_pass(3600)
    assert run_maintenance(log, RETRYING) == MaintenanceResult()
    assert log.query().replay(all=True).sent == 2


def test_purging_takes_what_the_filter_means(bench: LettersUnderTest, heard: list[Event]) -> None:
    bench.bury(agent="billing")
    shipping = bench.bury(agent="shipping")
    parked = bench.bury(agent="billing")
    bench.log.park(parked, "keep")
    assert bench.log.query(agent="billing").purge() == 1
    assert set(ids(bench.log.list())) == {shipping, parked}
    assert bench.log.purge(all=True) == 2
    assert bench.log.count() == 0
    assert [e.measurements["count"] for e in heard if e.name == events.PURGED] == [1, 2]


def test_every_act_is_recorded(bench: LettersUnderTest) -> None:
    letter_id = bench.bury()
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


# -- export and import


def test_what_is_exported_and_imported_is_the_same_byte_for_byte(bench: LettersUnderTest) -> None:
    bench.bury(metadata={"tags": []})
    bench.bury_raw(b"\xff\x00nonsense \r\n")
    bench.log.park(bench.bury(), "note")
    lines = list(bench.log.query(state="all").export())
    before = [letter.raw for letter in bench.log.list()]
    bench.log.purge(all=True)
    assert bench.log.import_lines(lines) == (3, 0)
    assert [letter.raw for letter in bench.log.list()] == before
    assert list(bench.log.query(state="all").export()) == lines
    assert bench.log.query(state="parked").count() == 1
    assert bench.log.import_lines(lines) == (0, 3), "imported twice"


def test_a_letter_that_is_here_is_not_imported_again(bench: LettersUnderTest) -> None:
    bench.bury()
    assert bench.log.import_lines(list(bench.log.query().export())) == (0, 1)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not an object"),
        ('{"id": "x"}', "is no dead letter's"),
        ('{"id": "1-1"}', "message: neither"),
        ('{"id": "1-1", "colour": 1}', "unknown: colour"),
    ],
)
def test_a_bad_line_is_named(bench: LettersUnderTest, line: str, problem: str) -> None:
    bench.bury()
    (good,) = bench.log.query().export()
    bench.log.purge(all=True)
    with pytest.raises(InvalidExport, match=problem) as raised:
        bench.log.import_lines([good, "", line, good])
    assert raised.value.line == 3
    assert bench.log.count() == 1
    with pytest.raises(InvalidExport):
        bench.log.import_lines([line], check_only=True)


# -- by itself

RETRYING = RetentionPolicy(auto_replays=3, first_replay_s=60)


def test_a_letter_is_retried_automatically_until_that_is_used_up_and_then_parked(
    bench: LettersUnderTest, heard: list[Event]
) -> None:
    bench.bury(reason="retries exhausted")
    hopeless = bench.bury(reason="non-retryable error")
    for number in range(3):
        assert run_maintenance(bench.log, RETRYING).replayed == 0
        bench.let_pass(60 * 2**number)
        assert run_maintenance(bench.log, RETRYING).replayed == 1
        (again,) = bench.die_again()
        assert again.lineage.auto == number + 1
    bench.let_pass(10_000)
    kept = run_maintenance(bench.log, RETRYING)
    assert (kept.replayed, kept.parked) == (0, 1), "retried beyond the maximum"
    (parked,) = bench.log.query(state="parked").page().letters
    assert parked.lineage.auto == 3
    assert "3 times" in parked.note["note"]
    assert ids(bench.log.query().page().letters) == [hopeless]
    assert events.PARKED in [event.name for event in heard]


def test_letters_of_a_full_mailbox_make_room_for_those_of_others(bench: LettersUnderTest) -> None:
    for _ in range(130):
        bench.bury()
    other = bench.bury(agent="audit", queue="audit")
    bench.bound("billing", 2)
    bench.let_pass(61)
    assert run_maintenance(bench.log, RETRYING).replayed == 3
    assert bench.log.query(agent="audit").count() == 0, f"{other} was not retried"
    assert bench.log.query().count() == 128
    (act,) = bench.log.audit()
    assert (act.kind, act.done) == ("replay", 3)
    # They are not forgotten, and what has no effect leaves no act.
    for _ in range(3):
        bench.let_pass(61)
        assert run_maintenance(bench.log, RETRYING).replayed == 0
    assert bench.log.audit() == [act]
    bench.bound("billing", 1000)
    bench.let_pass(61)
    assert run_maintenance(bench.log, RETRYING).replayed == 128
    assert bench.log.count() == 0


def test_retries_that_take_all_the_time_there_is_leave_expiry_and_length_their_share(
    bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(700):
        bench.bury(reason="non-retryable error")
    for _ in range(700):
        bench.bury()
    retention = RetentionPolicy(ttl_s=3600, max_count=1, auto_replays=3)
    assert run_maintenance(bench.log, RetentionPolicy(auto_replays=3)) == MaintenanceResult()
    bench.let_pass(7200)
    # By this clock there is time for ten steps or less.
    ticks = count()
    monkeypatch.setattr(dead_letters, "monotonic", lambda: next(ticks) / 10)
    kept = dead_letters.run_maintenance(bench.log, retention, budget_s=1)
    assert (kept.replayed > 0, kept.expired > 0, kept.trimmed > 0) == (True, True, True), kept


def test_retries_get_the_time_that_nothing_else_needs(bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(700):
        bench.bury()
    bench.let_pass(1)
    ticks = count()
    monkeypatch.setattr(dead_letters, "monotonic", lambda: next(ticks) / 100)
    assert (
        dead_letters.run_maintenance(
            bench.log, RetentionPolicy(auto_replays=3, first_replay_s=0.001), budget_s=0.5
        ).replayed
        == 700
    )
    (act,) = bench.log.audit()
    assert act.done == 700


def test_without_the_setting_nothing_is_retried_by_itself(bench: LettersUnderTest) -> None:
    bench.bury()
    bench.let_pass(3600)
    assert run_maintenance(bench.log, RetentionPolicy()).replayed == 0
    assert bench.log.count() == 1


def test_only_what_is_old_and_open_expires_and_that_is_said(
    bench: LettersUnderTest, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    bench.bury()
    parked = bench.bury()
    bench.log.park(parked, "keep")
    assert run_maintenance(bench.log, RetentionPolicy(ttl_s=3000)).expired == 0
    bench.let_pass(3600)
    assert run_maintenance(bench.log, RetentionPolicy(ttl_s=3000)).expired == 1
    assert run_maintenance(bench.log, RetentionPolicy(ttl_s=3000)).expired == 0
    assert ids(bench.log.list()) == [parked]
    told = [event for event in heard if event.name == events.LETTERS_EXPIRED]
    assert [(e.measurements["count"], e.metadata["reason"]) for e in told] == [(1, "age")]
    assert "expired unresolved" in caplog.text
    assert bench.log.audit(1)[0].kind == "expire"


def test_a_log_that_is_too_long_loses_its_oldest_and_says_so(bench: LettersUnderTest, heard: list[Event]) -> None:
    made = [bench.bury() for _ in range(10)]
    bench.log.park(made[0], "keep")
    assert run_maintenance(bench.log, RetentionPolicy(max_count=4)).trimmed == 6
    assert set(ids(bench.log.list())) == {made[0], *made[7:]}
    assert [e.metadata["reason"] for e in heard if e.name == events.LETTERS_EXPIRED] == ["length"]
    assert run_maintenance(bench.log, RetentionPolicy(max_count=4)).trimmed == 0
