"""What is printed, logged or lands in a traceback is short, and shows no secret; other bad values are shown."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator, model_validator

from orchestrator import Dead, Delivery, Handled, Message
from orchestrator.agents.context import Context
from orchestrator.core.deliveries.down import Down
from orchestrator.core.deliveries.history import Attempt
from orchestrator.core.deliveries.supervision import Failure, Supervision
from orchestrator.core.errors import InvalidMessage, InvalidPolicy, SendFailed
from orchestrator.core.message import decode
from orchestrator.core.policies.policy import OnError
from orchestrator.core.secrets import masked_repr
from orchestrator.core.secrets.masked_repr import hide_in_reprs
from orchestrator.core.secrets.redact import USUAL
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.deadletters.store import AuditEntry
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions
from tests.apps.shop import Charge, Refund, make

SECRET = "S3CRET"
TEXT = f"ConnectionError: bank refused, token={SECRET}, {{'password': '{SECRET}'}} Authorization: Bearer {SECRET}"


@pytest.fixture(autouse=True)
def no_names_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hidden is of the process: the fields of other tests' apps would be hidden here, too."""
    monkeypatch.setattr(masked_repr, "_hidden", set(USUAL))


class Card(BaseModel):
    pin: SecretStr
    holder: str = ""


class Pay(Message):
    cents: int
    pin: SecretStr = Field(min_length=4)
    token: str = ""
    card: Card | None = None
    cards: tuple[Card, ...] = ()

    @field_validator("pin")
    @classmethod
    def _no_sequence(cls, pin: SecretStr, info: ValidationInfo) -> SecretStr:
        if "1234" in pin.get_secret_value():
            raise ValueError(f"{pin.get_secret_value()} is too easy")
        return pin

    @model_validator(mode="before")
    @classmethod
    def _lucky(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("cents") == 13:
            raise ValueError(f"bad luck with pin {fields.get('pin')}")
        return fields


SHOWN = [
    Dead("retries exhausted", TEXT, 3, "1-1"),
    Handled({"token": SECRET, "deep": [{"password": SECRET}]}),
    Handled(TEXT),
    Attempt(1, "2026-11-28T10:00:00+00:00", "w1@host", TEXT),
    Failure(1, "ConnectionError", TEXT, TEXT, "", ""),
    Supervision(metadata={"token": SECRET}, failures=(Failure(1, "E", TEXT, TEXT, "", ""),)),
    Supervision(metadata={"pin": SECRET}, hide=("pin",)),
    DeadLetter("1-1", TEXT.encode(), "billing", "poison", "E", TEXT, metadata={"token": SECRET}, note={"note": TEXT}),
    DeadLetter("1-1", b"", "billing", "poison", "E", f"pin={SECRET}", hide=("pin",)),
    Context("d1", "billing", 1, "w1", False, {"token": SECRET}),
    AuditEntry("1-0", "park", "ann", TEXT, 0, {"note": TEXT}),
    Down(1, "billing", "killed", {"token": SECRET}, "w1"),
    CheckedOptions(metadata={"token": SECRET}),
    OutgoingMessage("d1", "billing.Pay", ({"token": SECRET},), Supervision(metadata={"token": SECRET})),
    Pay(cents=5, pin=SecretStr(SECRET), token=SECRET, card=Card(pin=SecretStr(SECRET))),
    Refund(order_id="o1", card_number=SECRET),
    SendFailed("d1", Dead("retries exhausted", TEXT, 3)),
    InvalidPolicy("metadata", {"token": SECRET}, "JSON"),
    InvalidPolicy("token", SECRET, "none"),
]


@pytest.mark.parametrize("value", SHOWN, ids=lambda value: type(value).__name__)
def test_no_secret_is_shown_however_a_value_is_printed(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("%s %r", value, value)
    for text in (repr(value), str(value), f"{value} {value!r}", f"{[value]}", caplog.text):
        assert SECRET not in text
        assert len(text) < 2500


def test_what_an_app_hides_is_hidden_in_reprs() -> None:
    hide_in_reprs(("iban",))
    assert SECRET not in repr(Dead("poison", f"iban={SECRET}"))
    make("redis://127.0.0.1:1/0", redact=("swift_code",)).app.close()
    assert SECRET not in repr(Dead("poison", f"swift_code={SECRET}"))


def test_a_repr_names_what_one_looks_for() -> None:
    assert repr(Dead("poison", "", 3)) == "Dead(reason='poison', attempts=3)"
    assert repr(Handled({"cents": 5}, 2)) == "Handled(result={'cents': 5}, attempts=2)"
    assert repr(Attempt(1, "t", "w1", "handled")) == "Attempt(number=1, ended_at='t', worker='w1', how='handled')"
    letter = DeadLetter(
        "1-1", b"x" * 10_000, "billing", "poison", "ValueError", "no", 3, agent="billing", message="Pay"
    )
    assert repr(letter) == "<DeadLetter 1-1 of billing.Pay: poison, error='ValueError: no', attempts=3>"
    assert len(repr(Dead("poison", "x" * 10_000))) < 300


def test_a_delivery_is_printed_by_its_id() -> None:
    made = make("redis://127.0.0.1:1/0")
    made.app.conf.task_always_eager = True
    one = made.send("billing", Charge(order_id="o1", cents=1))
    assert repr(one) == str(one) == f"<Delivery {one.id} of billing.Charge>"
    assert repr(made.send_many("billing", [Charge(order_id="o1", cents=1)] * 3)) == "<Deliveries: 3 to billing>"
    assert repr(made.broadcast(["billing"], Charge(order_id="o1", cents=1))).endswith(": 1 sent, 0 refused>")
    assert repr(Delivery("d1", "", "", OnError.IGNORE)) == "<Delivery d1>"


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"cents": "abc", "pin": SECRET}, "cents='abc': "),
        ({"cents": 5, "pin": [SECRET]}, "pin=**redacted**: "),
        ({"cents": -5.5, "pin": [SECRET], "token": 7}, "cents=-5.5: "),
        ({"cents": 5, "pin": SECRET, "card": {"pin": [SECRET], "holder": 7}}, "card.holder=7: "),
        ({"cents": 5, "pin": SECRET, "extra": "here"}, "extra='here': "),
        ({"cents": 5, "pim": SECRET}, "pim=**redacted**: "),
        ({"cents": {"pin": SECRET}, "pin": SECRET}, "cents={'pin': '**redacted**'}: "),
        ({"cents": 5, "pin": SECRET, "card": SECRET}, "card=**redacted**: "),
        ({"cents": 5, "pin": SECRET, "cards": [[SECRET]]}, "cards.0=**redacted**: "),
        ({"cents": 5, "pin": f"{SECRET}1234"}, "pin=**redacted**: **redacted** is too easy"),
        ({"cents": 13, "pin": SECRET}, "bad luck with pin **redacted**"),
        (SECRET, "message=**redacted**: "),
        ([SECRET], "message=**redacted**: "),
    ],
)
def test_of_a_message_with_a_secret_only_that_is_hidden_in_a_refusal(fields: Any, seen: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(Pay, fields)
    assert seen in str(refused.value)
    assert SECRET not in str(refused.value)
