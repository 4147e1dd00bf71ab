"""A message that this process holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from weakref import ref


class Run(Protocol):
    """A pool's execution of a message."""

    def is_over(self) -> bool:
        """Whether no code runs for the message any more, although it is not settled."""

    def abandon(self) -> None:
        """End the message all the same."""


class Reserved(Protocol):
    """A request for a message that a worker has reserved."""

    def forgotten(self) -> None:
        """End the message: nothing has begun to run it, and nothing will."""


@dataclass(slots=True)
class Claim:
    """A message this process holds."""

    tag: str
    entry: str
    stream: str
    queue: str
    deaths: int
    #: The deaths as its entry has them, a JSON list; empty if there were none.
    death_list: bytes = b""
    #: Bytes of the message.
    size: int = 0
    #: Whether it was delivered before and came back.
    came_back: bool = False
    #: Whether it was claimed ahead of a free slot and is not delivered yet; Redis knows that (a delivery counter of 0).
    ahead: bool = False
    #: Whether a consumer was given it. If not, it is not `redelivered` when it comes again.
    delivered: bool = False
    #: Whether it must run in isolation.
    last_chance: bool = False
    #: The mark it got before it was delivered; 0 if it gets one when a pool starts on it.
    mark: int = 0
    started_at: float | None = None
    #: Whether a pool has it that runs whatever it has been given.
    handed: bool = False
    #: Its execution by a pool, and since when that is seen to be over.
    run: Run | None = None
    over_since: float | None = None
    #: Celery's request for it, until a pool has it.
    reserved: ref[Reserved] | None = None
