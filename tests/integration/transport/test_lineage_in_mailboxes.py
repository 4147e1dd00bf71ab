"""What was a dead letter knows its line in its mailbox, whatever becomes of it there; without a worker."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.admission.flow_policy import Flow, Mailbox
from orchestrator.core.errors import MailboxFull
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.mailbox_entry import with_lineage
from orchestrator.transport.redis import commands
from tests.support.letters_under_test import QUEUE, LettersInRedis, wire_message


def malformed(letter_log: LettersInRedis, raw: bytes) -> str:
    return letter_log.put(
        raw, {"queue": QUEUE, "reason": "malformed", "error": {"type": "MalformedEntry", "message": ""}}
    )


def entries(letter_log: LettersInRedis, level: str = "0") -> list[dict[bytes, bytes]]:
    return [fields for _, fields in letter_log.redis.xrange(letter_log.keys.stream(QUEUE, level))]


def claimed(letter_log: LettersInRedis) -> tuple[str, bytes, bytes]:
    """What a worker is given: the entry, its message, its past."""
    call = commands.claim(letter_log.keys, [QUEUE], ["returned-0", "0"], "w#1", 1)
    _, _, entry, raw, past = letter_log.store.run(*call)
    return entry.decode(), raw, past


def given_back(letter_log: LettersInRedis, entry: str, level: str, *, died: bool) -> list[bytes]:
    stream, reason = letter_log.keys.stream(QUEUE, level), "killed" if died else ""
    call = commands.requeue_held(
        letter_log.keys, QUEUE, stream, [entry], max_deaths=2, ttl_ms=1000, by="w#1", reason=reason
    )
    answer: list[bytes] = letter_log.store.run(*call)
    return answer


@pytest.mark.parametrize(
    "raw",
    [wire_message(1), b' \n { "a": [1e400, []] }', b"{}", b"[1]", b"nonsense", b"", b'{"broken'],
    ids=["message", "blanks", "empty", "list", "nonsense", "nothing", "broken"],
)
def test_a_reader_finds_the_line_before_the_other_members(letter_log: LettersInRedis, raw: bytes) -> None:
    letter_id = malformed(letter_log, raw)
    letter_log.log.replay(letter_id)
    (fields,) = entries(letter_log)
    assert fields[b"m"] == raw, "byte for byte"
    assert json.loads(fields[b"r"])["of"] == letter_id
    _, seen, past = claimed(letter_log)
    # Who sleeps in XREADGROUP reads the entry itself.
    assert (seen, past) == (with_lineage(raw, fields[b"r"]), b"")
    member = b'"orc_lineage":' + fields[b"r"] + b","
    assert seen.replace(member, b"") == raw
    assert (member in seen) is (b'"' in raw), "where there are members"


def test_what_comes_back_and_kills_its_worker_keeps_its_line(letter_log: LettersInRedis) -> None:
    letter_id = letter_log.add_letter()
    letter_log.log.replay(letter_id)
    assert given_back(letter_log, claimed(letter_log)[0], "0", died=False) == [b"returned"]
    (fields,) = entries(letter_log, "returned-0")
    assert json.loads(fields[b"r"])["of"] == letter_id
    assert given_back(letter_log, claimed(letter_log)[0], "returned-0", died=True) == [b"returned"]
    entry, raw, past = claimed(letter_log)
    assert json.loads(raw)["orc_lineage"]["of"] == letter_id
    assert past.startswith(b"0 [")
    assert given_back(letter_log, entry, "returned-0", died=True) == [b"poison"]
    (letter,) = letter_log.log.list()
    assert (letter.reason, letter.raw) == ("poison", wire_message(1))
    assert (letter.replay_of, letter.lineage.first, letter.lineage.replays) == (letter_id, letter_id, 1)


def test_what_a_full_mailbox_drops_keeps_its_line(letter_log: LettersInRedis) -> None:
    letter_id = letter_log.add_letter()
    letter_log.log.replay(letter_id)
    declare_flow(letter_log.store, QUEUE, Flow(mailbox=Mailbox(1, overflow="drop_oldest")), serves=True)
    k = letter_log.keys
    letter_log.store.run(*commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [wire_message(2)]))
    (letter,) = letter_log.log.list()
    assert (letter.reason, letter.replay_of, letter.raw) == ("mailbox overflow", letter_id, wire_message(1))


def test_a_malformed_message_keeps_its_line_too(letter_log: LettersInRedis) -> None:
    letter_id = malformed(letter_log, b"nonsense")
    letter_log.log.replay(letter_id)
    (again,) = letter_log.die_again()
    assert (again.raw, again.replay_of, again.lineage.replays) == (b"nonsense", letter_id, 1)


def test_who_looks_for_a_delivery_finds_its_line(letter_log: LettersInRedis) -> None:
    letter_id = letter_log.add_letter()
    letter_log.log.replay(letter_id)
    k = letter_log.keys
    call = commands.find_delivery(k, QUEUE, "d1", stream=k.stream(QUEUE, "0"), begin="-", count=100, ttl_ms=1000)
    state, raw, _ = letter_log.store.run(*call)
    assert (state, json.loads(raw)["orc_lineage"]["of"]) == (b"waiting", letter_id)
    claimed(letter_log)
    state, raw, *_ = letter_log.store.run(*call)
    assert (state, json.loads(raw)["orc_lineage"]["of"]) == (b"held", letter_id)


def test_a_refused_letter_leaves_its_kind_and_its_message_as_they_were(letter_log: LettersInRedis) -> None:
    made = [letter_log.add_letter(body={"text": "x" * size}) for size in (1, 9000, 1, 9000)]
    lines = list(letter_log.log.query().export())
    letter_log.bound(QUEUE, 1)
    letter_log.log.replay(made[0])
    with pytest.raises(MailboxFull):
        letter_log.log.replay(made[1])
    assert list(letter_log.log.query().export()) == lines[1:]
    assert letter_log.index_problems() == []
