"""Errors of messages that do not fit show no value of a field whose name is that of a secret."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError, field_validator

from orchestrator import InvalidMessage, Message
from orchestrator.core.message import decode
from orchestrator.core.secrets.masked_repr import masked

PASSWORD = "hunter2"


class Card(BaseModel):
    """A part of a message."""

    card_number: int = 0


class Login(Message):
    """A message whose password is plain text."""

    password: str
    pin: SecretStr = SecretStr("")
    attempts: int = 0
    card: Card = Card()

    @field_validator("password")
    @classmethod
    def _strong(cls, password: str) -> str:
        if password == PASSWORD:
            raise ValueError(f"{password} is too weak")
        return password


WRONG: list[dict[str, Any]] = [
    {"password": [PASSWORD]},
    {"password": PASSWORD},
    {"passwort": PASSWORD},
    {"password": "x", "pin": [PASSWORD]},
    {"password": "x", "card": {"card_number": PASSWORD}},
]


@pytest.mark.parametrize("fields", WRONG)
def test_neither_who_makes_it_nor_who_reads_it_sees_the_value(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as made:
        Login(**fields)
    with pytest.raises(InvalidMessage) as read:
        decode(Login, fields)
    for error in (made.value, read.value):
        assert PASSWORD not in str(error)
        assert "**redacted**" in str(error)
    assert PASSWORD not in str(made.value.errors())
    assert made.value.__cause__ is None


def test_other_values_are_shown_and_the_error_is_pydantics_own() -> None:
    with pytest.raises(ValidationError) as made:
        Login(password="x", attempts="many")
    assert "input_value='many'" in str(made.value)
    assert made.value.errors()[0]["type"] == "int_parsing"


def test_what_pydantic_says_of_any_model_is_masked_where_texts_are() -> None:
    with pytest.raises(ValidationError) as failed:
        Card(card_number=PASSWORD)
    assert PASSWORD in str(failed.value)
    shown = masked(f"a handler failed: {failed.value}")
    assert PASSWORD not in shown
    assert "input_value=**redacted**, input_type=str" in shown
