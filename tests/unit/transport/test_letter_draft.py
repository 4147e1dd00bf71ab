"""What is recorded of a message that becomes a dead letter, and its event."""

from __future__ import annotations

import pytest

from orchestrator.core.deliveries.fingerprint import fingerprint
from orchestrator.core.deliveries.supervision import Failure
from orchestrator.telemetry import Event, attach, detach, events
from orchestrator.transport.letter_draft import MESSAGE_LIMIT, LetterDraft, error_type, group_of, summary_of

STACK = '  File "/a/bank.py", line 3, in pay\n    raise OSError\n'
LETTER = LetterDraft("timeout", "OSError", "pin=1234", attempts=2)


def test_the_fields_say_why_where_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1.5)
    assert LETTER.fields("billing", "w#1") == {
        "queue": "billing", "reason": "timeout", "error": {"type": "OSError", "message": "pin=1234"},
        "attempts": 2, "by": "w#1", "incarnation": "w#1", "at": 1500,
    }  # fmt: skip


def test_secrets_are_masked_and_long_texts_are_cut_off() -> None:
    assert "1234" not in str(LETTER.fields("q", hidden=["pin"]))
    long = LetterDraft("timeout", "OSError", "x" * 5000).fields("q")
    assert len(long["error"]["message"]) == MESSAGE_LIMIT


def test_a_letter_without_an_error_has_none() -> None:
    fields = LetterDraft("rejected", by="w1").fields("q", "w#1")
    assert "error" not in fields
    assert (error_type(fields), summary_of(fields), fields["by"]) == ("", "rejected", "w1")


def test_without_a_stack_the_place_decides_the_group() -> None:
    failure = Failure(1, "OSError", "no", STACK, "", "")
    known = LetterDraft("timeout", "OSError", failures=(failure,)).fields("q")
    assert group_of(known) == fingerprint("OSError", STACK)
    assert group_of(LETTER.fields("q")) == "", "the script makes one"
    assert group_of(LETTER.fields("q"), "billing.Charge") == fingerprint("OSError", "", "billing.Charge")


def test_the_event_and_the_outcome_describe_the_error_alike() -> None:
    found: list[Event] = []
    attach(found.append, events.DEAD_LETTERED)
    try:
        LETTER.emit(agent="billing", message="Charge", delivery_id="d")
    finally:
        detach(found.append)
    (event,) = found
    assert event.metadata == {
        "agent": "billing", "message": "Charge", "id": "d", "reason": "timeout", "error": "OSError: pin=1234",
        "attempts": 2,
    }  # fmt: skip
    assert LETTER.outcome() == {"outcome": "dead", "reason": "timeout", "error": "OSError: pin=1234", "attempts": 2}
