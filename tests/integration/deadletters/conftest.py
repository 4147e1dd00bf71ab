"""The dead-letter log in Redis and in memory, and the events that it emits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.message import Message, decode, encode
from orchestrator.telemetry import Event, attach, detach
from tests.support.letters_under_test import LettersInMemory, LettersInRedis, LettersUnderTest


class Charge(Message):
    order_id: str
    cents: int


def validate(agent: str, message: str, fields: Any) -> Any:
    return encode(decode(Charge, fields)) if (agent, message) == ("billing", "Charge") else None


@pytest.fixture(params=["redis", "memory"])
def letter_log(request: pytest.FixtureRequest) -> Iterator[LettersUnderTest]:
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
