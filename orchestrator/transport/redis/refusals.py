"""Refusals that say something of the server, not of the command: too few replicas, a full disk, a failover.

Such a server is one to come back to. As a connection error the refusal has Celery's workers do that, and kombu's
senders try again and give up, as they do when Redis is away; as an error of the command it would end the worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError, TryAgainError

#: Anywhere in the text: Redis 6.2 quotes a script's refusal within its own. But not BUSYGROUP, which is about a stream.
_PASSING: Final = re.compile(
    r"\b(?:NOREPLICAS|MISCONF|READONLY|BUSY|LOADING|MASTERDOWN|TRYAGAIN|UNBLOCKED)\b|\bread only\b"
)

#: Those of which redis-py takes the word away.
_PASSING_KINDS: Final = (ReadOnlyError, MasterDownError, TryAgainError)

#: Those that last until somebody changes something: rights, the type of a key, a full memory.
_LASTING: Final = re.compile(
    r"\b(?:NOPERM|NOAUTH|WRONGPASS|WRONGTYPE|OOM|maxmemory|permissions)\b|Authentication|used memory"
    r"|invalid (?:username-)?password|without any password configured"
)

#: As ``includes/unreadable.lua`` has them.
_UNREADABLE: Final = ("WRONGTYPE", "not an integer", "not a valid float", "overflow", "attempt to ", "bad argument")

_FULL: Final = ("OOM", "used memory", "maxmemory")


class RefusesForNow(RedisConnectionError):
    """The server takes no writes at present. Unlike after a lost connection, it is certain that nothing was done."""

    def __repr__(self) -> str:
        """With its text, which redis-py leaves out: Celery logs the representation only."""
        return f"{type(self).__name__}({str(self)!r})"


def is_passing(error: ResponseError) -> bool:
    """Whether the server refuses for a while, for another reason than that its memory is full."""
    return isinstance(error, _PASSING_KINDS) or _PASSING.search(str(error)) is not None


def is_full(error: ResponseError) -> bool:
    """Whether the server's memory is full. It still serves, and can be emptied."""
    text = str(error)
    return any(word in text for word in _FULL)


def is_wrong_type(error: BaseException) -> bool:
    """Whether a key is of another type than this library keeps there."""
    return "WRONGTYPE" in str(error)


def is_of_one_command(error: BaseException) -> bool:
    """Whether only this command is refused: its key is of another type, it lacks a right, or it needs memory."""
    return isinstance(error, ResponseError) and not is_passing(error)


def is_unreadable(error: BaseException) -> bool:
    """Whether a key is of another type, or a script has found there what this library does not write."""
    text = str(error)
    return any(sign in text for sign in _UNREADABLE) and not _PASSING.search(text)


def may_pass(error: BaseException) -> bool:
    """Whether what failed may succeed later, because the server is away or refuses for a while."""
    text = str(error)
    return _PASSING.search(text) is not None or _LASTING.search(text) is None


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Have a server that refuses for a while be one that is away.

    Raises:
        RefusesForNow: instead of a refusal that passes.
    """
    try:
        yield
    except ResponseError as error:
        if is_passing(error):
            raise RefusesForNow(str(error)) from error
        raise
