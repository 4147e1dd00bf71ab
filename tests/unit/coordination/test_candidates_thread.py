"""A worker's candidates campaign as long as it consumes, however fast its connection is lost and found again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from orchestrator.coordination.candidates import Candidates
from orchestrator.coordination.named_leases import Wanted
from orchestrator.core.errors import BrokenKey, BrokerUnavailable, InvalidPolicy
from tests.support.eventually import eventually


class Line:
    """Stands in for the leases in Redis: nobody is granted anything, and sleepers sleep until the test wakes them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.withdrawn: list[str] = []
        #: Elections that cannot be asked for, and why.
        self.broken: dict[str, Exception] = {}
        self.led: list[str] = []
        self.sleeping, self.woken = threading.Event(), threading.Event()

    def ask(self, wanted: Wanted, token: str, left_s: float) -> None:
        self.asked.append(token)
        if wanted.name in self.broken:
            raise self.broken[wanted.name]
        self.led.append(wanted.name)

    def sleep(self, tokens: list[str], longest_s: float) -> None:
        self.sleeping.set()
        self.woken.wait(10)

    def withdraw(self, wanted: Wanted, token: str) -> None:
        self.withdrawn.append(token)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def candidates(line: Line) -> Iterator[Candidates]:
    def write(*told: Any) -> None: ...

    leases: Any = line
    made = Candidates(["cron"], lambda: leases, write, lambda: "w@h:1#2", lambda _: ())
    yield made
    made.stop()
    line.woken.set()


def test_who_is_started_while_what_was_stopped_still_sleeps_campaigns_on(line: Line, candidates: Candidates) -> None:
    candidates.start()
    assert line.sleeping.wait(10)
    candidates.stop()
    candidates.start()
    line.woken.set()
    eventually(lambda: len(line.asked) > 3)


def test_a_late_withdrawal_ends_no_later_request(line: Line, candidates: Candidates) -> None:
    candidates.start()
    assert line.sleeping.wait(10)
    candidates.stop()
    asked = line.asked.copy()
    line.woken.set()
    eventually(lambda: line.withdrawn)
    candidates.start()
    eventually(lambda: len(line.asked) > len(asked))
    assert line.withdrawn[0] in asked
    assert line.withdrawn[0] not in line.asked[len(asked) :]


def test_who_is_stopped_leaves_the_line_for_good(line: Line, candidates: Candidates) -> None:
    before = set(threading.enumerate())
    candidates.start()
    candidates.start()
    assert line.sleeping.wait(10)
    candidates.stop()
    line.woken.set()
    eventually(lambda: line.withdrawn)
    begun = set(threading.enumerate()) - before
    threads = [thread for thread in begun if thread.name == "orchestrator-candidates"]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def broken_key() -> BrokerUnavailable:
    """What a key of another type is for users."""
    error = BrokenKey("redis://", "orc:named:election:singleton:cron", "string", "hash", "WRONGTYPE")
    error.__cause__ = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    return error


@pytest.mark.parametrize(
    "error",
    [
        broken_key(),
        ValueError("the message cannot be written"),
        InvalidPolicy("singleton", "cron.elected", "an agent with one mailbox"),
    ],
    ids=["key", "code", "agent"],
)
def test_a_singleton_for_which_nobody_can_campaign_keeps_no_other_from_a_leader(
    line: Line, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: whatever was declared after it had no leader, so nobody served its mailbox; a key was not named."""
    leases: Any = line
    line.broken["singleton:cron"] = error
    line.woken.set()
    candidates = Candidates(["cron", "ticker"], lambda: leases, lambda *_: None, lambda: "w@h:1#2", lambda _: ())
    candidates.start()
    eventually(lambda: line.led.count("singleton:ticker") > 1)
    candidates.stop()
    # Once, and not in each round.
    (logged,) = [one.getMessage() for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
    assert "agent cron" in logged
