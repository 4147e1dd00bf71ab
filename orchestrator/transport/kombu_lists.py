"""Messages that kombu's own Redis transport left in its lists. This transport does not read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

#: What kombu puts between a queue's name and a priority, in the names of the lists for all but the first priority.
_BETWEEN: Final = "\x06\x16"


def left_in_lists(
    call: Callable[..., Any], prefix: str, queues: Iterable[str], levels: Sequence[str]
) -> dict[str, int]:
    """The lengths of the lists of each queue that has some; ``prefix`` is kombu's ``global_keyprefix``.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    left = {}
    for queue in queues:
        names = [queue, *(f"{queue}{_BETWEEN}{level}" for level in levels if level != "0")]
        count = sum(_length(call, f"{prefix}{name}") for name in names)
        if count:
            left[queue] = count
    return left


def _length(call: Callable[..., Any], key: str) -> int:
    try:
        return int(call("LLEN", key))
    except ResponseError:
        # Not a list, or not ours to read.
        return 0
