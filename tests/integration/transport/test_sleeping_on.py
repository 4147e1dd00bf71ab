"""A reader that has waited for a message sleeps on, without a claim that would find nothing more."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator.core.keys import Keys, levels_of
from orchestrator.transport.options import Options
from orchestrator.transport.reader import Reader

KEYS, LEVELS = Keys(), levels_of([0])


def slept(level: str) -> list[Any]:
    """The reply to a sleep that has brought one message."""
    return [[KEYS.stream("box", level).encode(), [[b"1-1", [b"m", b"{}"]]]]]


def read(reader: Reader, claimed: list[Any], level: str = "0") -> bool:
    """Whether the reader sleeps on after a message that it has slept for, if the claim before had this reply."""
    reader.claim(["box"], "me", 1, 0, leased=False)
    reader.read(claimed)
    reader.sleep([KEYS.stream("box", level)], "me", 1000)
    threading.Event().wait(0.1)
    reader.read(slept(level))
    return reader.is_empty


@pytest.mark.parametrize(
    ("claimed", "level", "sleeps_on"),
    [([-1], "0", True), ([[-1]], "0", False), ([[-1, 2]], "0", False), ([-1], "returned-0", False)],
    ids=["plain", "a singleton's or limited", "not the leader", "a returned message"],
)
def test_only_a_reader_of_plain_mailboxes_sleeps_on(claimed: list[Any], level: str, sleeps_on: bool) -> None:
    assert read(Reader(KEYS, LEVELS, Options()), claimed, level) is sleeps_on


def test_a_reader_claims_at_least_as_often_as_it_may_block() -> None:
    assert read(Reader(KEYS, LEVELS, Options(block_s=0.05)), [-1]) is False


def test_a_reader_that_sleeps_on_wakes_when_the_next_message_is_due() -> None:
    reader = Reader(KEYS, LEVELS, Options())
    assert read(reader, [500])
    command = reader.sleep([KEYS.stream("box", "0")], "me", 1000)
    assert 1 <= command[command.index("BLOCK") + 1] <= 400
