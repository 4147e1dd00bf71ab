"""What was a dead letter knows its line in its mailbox, whatever becomes of it there; without a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator.core.errors import MailboxFull
from orchestrator.core.flow_policy import Flow, Mailbox
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.mailbox_entry import with_lineage
from orchestrator.transport.redis import commands
from tests.support.letters_under_test import QUEUE, LettersInRedis, wire_message


@pytest.fixture
def bench(redis_url: str) -> Iterator[LettersInRedis]:
    made = LettersInRedis(redis_url, (), None)
    yield made
    made.close()


def malformed(bench: LettersInRedis, raw: bytes) -> str:
    return bench.put(raw, {"queue": QUEUE, "reason": "malformed", "error": {"type": "MalformedEntry", "message": ""}})


def entries(bench: LettersInRedis, level: str = "0") -> list[dict[bytes, bytes]]:
    return [fields for _, fields in bench.redis.xrange(bench.keys.stream(QUEUE, level))]


def claimed(bench: LettersInRedis) -> tuple[str, bytes, bytes]:
    """What a worker is given: the entry, its message, its past."""
    call = commands.claim(bench.keys, [QUEUE], ["returned-0", "0"], "w#1", 1)
    _, _, entry, raw, past = bench.store.run(*call)
    return entry.decode(), raw, past


def given_back(bench: LettersInRedis, entry: str, level: str, *, died: bool) -> list[bytes]:
    stream, reason = bench.keys.stream(QUEUE, level), "killed" if died else ""
    call = commands.requeue_held(bench.keys, QUEUE, stream, [entry], max_deaths=2, ttl_ms=1000, by="w#1", reason=reason)
    answer: list[bytes] = bench.store.run(*call)
    return answer


@pytest.mark.parametrize(
    "raw",
    [wire_message(1), b' \n { "a": [1e400, []] }', b"{}", b"[1]", b"nonsense", b"", b'{"broken'],
    ids=["message", "blanks", "empty", "list", "nonsense", "nothing", "broken"],
)
def test_a_reader_finds_the_line_before_the_other_members(bench: LettersInRedis, raw: bytes) -> None:
    letter_id = malformed(bench, raw)
    bench.log.replay(letter_id)
    (fields,) = entries(bench)
    assert fields[b"m"] == raw, "byte for byte"
    assert json.loads(fields[b"r"])["of"] == letter_id
    _, seen, past = claimed(bench)
    # Who sleeps in XREADGROUP reads the entry itself.
    assert (seen, past) == (with_lineage(raw, fields[b"r"]), b"")
    member = b'"orc_lineage":' + fields[b"r"] + b","
    assert seen.replace(member, b"") == raw
    assert (member in seen) is (b'"' in raw), "where there are members"


def test_what_comes_back_and_kills_its_worker_keeps_its_line(bench: LettersInRedis) -> None:
    letter_id = bench.add_letter()
    bench.log.replay(letter_id)
    assert given_back(bench, claimed(bench)[0], "0", died=False) == [b"returned"]
    (fields,) = entries(bench, "returned-0")
    assert json.loads(fields[b"r"])["of"] == letter_id
    assert given_back(bench, claimed(bench)[0], "returned-0", died=True) == [b"returned"]
    entry, raw, past = claimed(bench)
    assert json.loads(raw)["orc_lineage"]["of"] == letter_id
    assert past.startswith(b"0 [")
    assert given_back(bench, entry, "returned-0", died=True) == [b"poison"]
    (letter,) = bench.log.list()
    assert (letter.reason, letter.raw) == ("poison", wire_message(1))
    assert (letter.replay_of, letter.lineage.first, letter.lineage.replays) == (letter_id, letter_id, 1)


def test_what_a_full_mailbox_drops_keeps_its_line(bench: LettersInRedis) -> None:
    letter_id = bench.add_letter()
    bench.log.replay(letter_id)
    declare_flow(bench.store, QUEUE, Flow(mailbox=Mailbox(1, overflow="drop_oldest")), serves=True)
    k = bench.keys
    bench.store.run(*commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [wire_message(2)]))
    (letter,) = bench.log.list()
    assert (letter.reason, letter.replay_of, letter.raw) == ("mailbox overflow", letter_id, wire_message(1))


def test_a_malformed_message_keeps_its_line_too(bench: LettersInRedis) -> None:
    letter_id = malformed(bench, b"nonsense")
    bench.log.replay(letter_id)
    (again,) = bench.die_again()
    assert (again.raw, again.replay_of, again.lineage.replays) == (b"nonsense", letter_id, 1)


def test_who_looks_for_a_delivery_finds_its_line(bench: LettersInRedis) -> None:
    letter_id = bench.add_letter()
    bench.log.replay(letter_id)
    k = bench.keys
    call = commands.find_delivery(k, QUEUE, "d1", stream=k.stream(QUEUE, "0"), begin="-", count=100, ttl_ms=1000)
    state, raw, _ = bench.store.run(*call)
    assert (state, json.loads(raw)["orc_lineage"]["of"]) == (b"waiting", letter_id)
    claimed(bench)
    state, raw, *_ = bench.store.run(*call)
    assert (state, json.loads(raw)["orc_lineage"]["of"]) == (b"held", letter_id)


def test_a_refused_letter_leaves_its_kind_and_its_message_as_they_were(bench: LettersInRedis) -> None:
    made = [bench.add_letter(body={"text": "x" * size}) for size in (1, 9000, 1, 9000)]
    lines = list(bench.log.query().export())
    bench.bound(QUEUE, 1)
    bench.log.replay(made[0])
    with pytest.raises(MailboxFull):
        bench.log.replay(made[1])
    assert list(bench.log.query().export()) == lines[1:]
    assert bench.index_problems() == []
