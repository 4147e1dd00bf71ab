"""A reader that has waited for a message sleeps on, without a claim that would find nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.keys import Keys, levels_of
from orchestrator.transport import reader as reader_module
from orchestrator.transport.options import Options
from orchestrator.transport.reader import Reader

KEYS, LEVELS = Keys(), levels_of([0])


class Clock:
    """The readers' clock, which goes on when a test says so."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reader_module, "monotonic", clock)
    return clock


def slept(level: str) -> list[Any]:
    """The reply to a sleep that has brought one message."""
    return [[KEYS.stream("box", level).encode(), [[b"1-1", [b"m", b"{}"]]]]]


def read(reader: Reader, claimed: list[Any], clock: Clock, level: str = "0") -> bool:
    """Whether the reader sleeps on after a message that it has slept for, if the claim before had this reply."""
    reader.claim(["box"], "me", 1, 0, leased=False)
    clock.now_s += 0.001
    reader.read(claimed)
    reader.sleep([KEYS.stream("box", level)], "me", 1000)
    clock.now_s += 0.1
    reader.read(slept(level))
    return reader.is_empty


@pytest.mark.parametrize(
    ("claimed", "level", "sleeps_on"),
    [([-1], "0", True), ([[-1]], "0", False), ([[-1, 2]], "0", False), ([-1], "returned-0", False)],
    ids=["plain", "a singleton's or limited", "not the leader", "a returned message"],
)
def test_only_a_reader_of_plain_mailboxes_sleeps_on(
    clock: Clock, claimed: list[Any], level: str, sleeps_on: bool
) -> None:
    assert read(Reader(KEYS, LEVELS, Options()), claimed, clock, level) is sleeps_on


def test_a_reader_claims_at_least_as_often_as_it_may_block(clock: Clock) -> None:
    assert read(Reader(KEYS, LEVELS, Options(block_s=0.05)), [-1], clock) is False


def test_a_reader_that_sleeps_on_wakes_when_the_next_message_is_due(clock: Clock) -> None:
    reader = Reader(KEYS, LEVELS, Options())
    assert read(reader, [500], clock)
    command = reader.sleep([KEYS.stream("box", "0")], "me", 1000)
    assert command[command.index("BLOCK") + 1] == 400
