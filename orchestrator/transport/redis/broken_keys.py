"""Finds the key that is of another type than this library keeps there, after Redis has answered WRONGTYPE.

The reply does not name it. The keys that the command named are looked at, what lies beside them, and those that any
script may use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import redis
from redis.exceptions import RedisError, ResponseError

from orchestrator.core.errors import BrokenKey
from orchestrator.core.key_types import FIXED, names_beside, type_of
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.refusals import is_wrong_type

#: Keys that are looked at, at most.
_MOST: Final = 5_000

#: Parts of a command that may be keys or names, at most, and how long a name is.
_MOST_PARTS: Final = 40
_LONGEST_TEXT: Final = 200


def attach_command(error: ResponseError, command: Sequence[Any]) -> None:
    """Have an error reply say to which command it is the reply."""
    error.__dict__["command"] = tuple(command)


def describe_refusal(
    error: BaseException, pool: Any, keys: Keys, levels: tuple[str, ...] = (), url: str = ""
) -> BaseException:
    """For logs: the error that names the key, if a type is what Redis has refused; else the same error."""
    return as_broken_key(error, redis.Redis(connection_pool=pool), keys, levels, url) or error


def as_broken_key(
    error: BaseException, client: redis.Redis, keys: Keys, levels: tuple[str, ...], url: str
) -> BrokenKey | None:
    """The error that names the key; ``None`` if a type is not what Redis has refused, or no such key is found."""
    if not is_wrong_type(error):
        return None
    names = _candidates(error, keys, levels)
    try:
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.type(name)
            types = pipe.execute()
    except RedisError:
        return None
    for name, found in zip(names, types, strict=True):
        needed, is_ = type_of(keys, name), found.decode() if isinstance(found, bytes) else str(found)
        if is_ not in ("none", needed):
            return BrokenKey(url, name, is_, needed, error)
    return None


def _candidates(error: BaseException, keys: Keys, levels: tuple[str, ...]) -> list[str]:
    parts = [*_parts(error, keys)]
    named = [part for part in parts if part.startswith(keys.root)]
    # Scripts make names of their arguments as well: `named:KIND:NAME`.
    texts = [part for part in parts if part not in named and len(part) <= _LONGEST_TEXT]
    made = [f"{keys.root}named:{text}" for text in (*texts, *map(":".join, pairwise(texts)))]
    beside = [other for name in (*named, *made) for other in names_beside(keys, name, levels)]
    names = dict.fromkeys([*named, *beside, *(f"{keys.root}{name}" for name in FIXED)])
    return [name for name in names if type_of(keys, name)][:_MOST]


def _parts(error: BaseException | None, keys: Keys) -> Iterable[str]:
    """The parts of the command that an error or one of its causes is the reply to."""
    while error is not None:
        for part in error.__dict__.get("command", ())[:_MOST_PARTS]:
            yield part.decode(errors="replace") if isinstance(part, bytes) else str(part)
        # redis-py quotes a command of a pipeline.
        yield from re.findall(rf"(?<=\s){re.escape(keys.root)}[^\s)]+", str(error))
        error = error.__cause__
