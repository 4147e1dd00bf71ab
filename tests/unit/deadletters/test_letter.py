"""Dead letters are read whatever is in them."""

import base64
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.secrets.redact import HIDDEN
from orchestrator.deadletters.letter import DeadLetter, read_letter
from orchestrator.transport.mailbox_entry import renewed
from tests.support.json_data import json_data, objects

ENTRY = "1700000000000-0"
PASSWORD = "hunter2"


def as_bytes(data: Any) -> bytes:
    return json.dumps(data).encode()


letters = objects("queue", "reason", "error", "attempts", "at", "by", "failures")
messages = st.fixed_dictionaries(
    {},
    optional={
        "body": json_data | st.text(max_size=9) | st.just("W10="),
        "properties": objects("body_encoding") | st.just({"body_encoding": "base64"}) | json_data,
        "headers": objects("task", "id", "orc") | st.just({"orc": Supervision().to_wire()}) | json_data,
    },
)


def field(data: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return data.map(as_bytes) | st.binary(max_size=60)


def envelope(args: list[Any], **headers: Any) -> bytes:
    body = base64.b64encode(json.dumps([args, {}, {"chain": None}]).encode()).decode()
    return as_bytes(
        {
            "body": body,
            "content-type": "application/json",
            "headers": {"task": "worker.Pay", "id": "d1", **headers},
            "properties": {"body_encoding": "base64"},
        }
    )


def letter_of(raw: bytes, **written: Any) -> DeadLetter:
    return read_letter(ENTRY, {b"m": raw, b"letter": as_bytes(written), b"d": b""})


@given(st.text(max_size=20) | st.just(ENTRY), field(messages), field(letters), field(json_data))
@example(ENTRY, b"{}", b'{"attempts": 1e999}', b"")
@example(ENTRY, b"{}", b'{"at": NaN}', b"")
@example("", b"[" * 100_000, b"[" * 100_000, b"[" * 100_000)
@example(ENTRY, as_bytes({"body": "[" * 600 + "]" * 600}), b"", b"")
def test_any_letter_can_be_read_and_shown(entry_id: str, raw: bytes, written: bytes, deaths: bytes) -> None:
    letter = read_letter(entry_id, {b"m": raw, b"letter": written, b"d": deaths})
    assert letter.raw == raw
    json.dumps(letter.shown(("password",)))


def test_a_letter_without_fields_can_be_read() -> None:
    assert read_letter(ENTRY, {}) == DeadLetter(ENTRY, b"", "", "", at_ms=1700000000000, dead_lettered_ms=1700000000000)


def test_what_the_worker_wrote_is_read_back() -> None:
    failure = {"attempt": 1, "type": "ValueError", "message": "no", "traceback": "tb", "at": "now", "by": "w1"}
    supervision = Supervision(agent="worker", message="Pay", metadata={"job": 1}, replay_of="0-1").to_wire()
    raw = envelope([{"order_id": "o1"}], orc=supervision)
    letter = letter_of(
        raw,
        queue="q",
        reason="poison",
        error={"type": "T", "message": "M"},
        attempts=3,
        at=5,
        by="w1",
        failures=[failure],
    )
    assert (letter.queue, letter.reason, letter.error_type, letter.error_message) == ("q", "poison", "T", "M")
    assert (letter.attempts, letter.at_ms, letter.by) == (3, 5, "w1")
    assert [f.to_wire() for f in letter.failures] == [failure]
    assert (letter.task, letter.delivery_id, letter.agent, letter.message) == ("worker.Pay", "d1", "worker", "Pay")
    assert (dict(letter.metadata), letter.replay_of) == ({"job": 1}, "0-1")
    assert letter.body() == [[{"order_id": "o1"}], {}]
    assert letter.raw == raw


def test_deaths_are_read_back() -> None:
    deaths = [{"reason": "killed", "by": "w1", "at": 1}]
    assert read_letter(ENTRY, {b"m": b"", b"d": as_bytes(deaths)}).deaths == tuple(deaths)


def test_secrets_are_hidden_in_body_and_metadata() -> None:
    supervision = Supervision(metadata={"deep": [{"Token": PASSWORD}]}).to_wire()
    letter = letter_of(envelope([{"password": PASSWORD, "user": "u"}], orc=supervision))
    shown = letter.shown(("password", "token"))
    assert PASSWORD not in json.dumps(shown)
    assert shown["body"] == [[{"password": HIDDEN, "user": "u"}], {}]
    assert shown["metadata"] == {"deep": [{"Token": HIDDEN}]}


def test_a_renewed_message_is_a_first_attempt_that_says_where_it_comes_from() -> None:
    failed = {**Supervision(agent="worker", metadata={"job": 1}).to_wire(), "failures": [{"attempt": 1}]}
    raw = envelope([1], orc=failed, retries=3, eta="2020-01-01", expires="2020-01-01", orc_sent_ms=1)
    headers = renewed(json.loads(raw)["headers"], {"of": ENTRY, "first": ENTRY, "replays": 1, "auto": 0})
    assert (headers["retries"], headers["eta"], headers["expires"]) == (0, None, None)
    assert headers["id"] == "d1"
    assert "orc_sent_ms" not in headers
    assert headers["orc_lineage"]["replays"] == 1
    supervision = Supervision.from_wire(headers["orc"])
    assert (supervision.failures, supervision.replay_of, supervision.metadata) == ((), ENTRY, {"job": 1})
