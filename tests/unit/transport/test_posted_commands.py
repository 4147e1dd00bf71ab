"""No posted command is lost where a signal's handler raises."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from orchestrator.transport.redis import commands
from orchestrator.transport.redis.posted_commands import PostedCommand, PostedCommands


class _Interrupted(deque[PostedCommand]):
    """A signal comes while it is extended."""

    def extend(self, _: Any) -> None:
        raise KeyboardInterrupt


def test_a_batch_that_is_interrupted_while_it_is_taken_is_still_there() -> None:
    posted = PostedCommands("g")
    for name in "ab":
        posted.append(PostedCommand(None, ("SET", name, 1), None))
    posted.unread = _Interrupted()
    with pytest.raises(KeyboardInterrupt):
        posted.take_batch()
    assert len(posted) == 2


def test_acknowledgements_that_are_interrupted_while_they_are_queued_are_still_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle, calls = commands.settle, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return settle(*args, **kwargs)

    monkeypatch.setattr(commands, "settle", interrupted)
    posted = PostedCommands("g")
    for stream in "abc":
        for entry in ("1-1", "1-2"):
            posted.ack(stream, "ledger", "handled", entry)
    with pytest.raises(KeyboardInterrupt):
        posted.collect_acks()
    assert all(posted.mentions(stream, entry) for stream in "abc" for entry in ("1-1", "1-2"))
    posted.collect_acks()
    assert len(posted) == len(posted.queue) == 3


def test_acknowledgements_that_cannot_be_encoded_stop_no_others() -> None:
    posted = PostedCommands("g")
    posted.ack("a", "ledger", "dead \ud800", "1-1")
    posted.ack("a", "ledger", "handled", "1-2")
    posted.collect_acks()
    assert len(posted) == len(posted.queue) == 1
