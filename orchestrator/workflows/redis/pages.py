"""Reads of large keys in Redis by pages, for runs of workflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from orchestrator.core.stored_values import stored_text
from orchestrator.transport.store import Store

T = TypeVar("T")

#: Runs, and steps, that one command reads.
PAGE: Final = 500


def ask(store: Store, command: Callable[..., T]) -> Any:
    """The result of a command.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    try:
        return command()
    except RedisError as error:
        raise store.failure(error) from error


def scan_hash(store: Store, key: str) -> Iterator[tuple[str, str]]:
    """The fields of a hash. Raises as :func:`ask`."""
    cursor = 0
    while True:
        cursor, page = ask(store, lambda cursor=cursor: store.client.hscan(key, cursor, count=PAGE))
        yield from ((stored_text(name), stored_text(value)) for name, value in page.items())
        if cursor == 0:
            return


def pages(items: list[str]) -> Iterator[list[str]]:
    """The items, as many at a time as one command reads."""
    for at in range(0, len(items), PAGE):
        yield items[at : at + PAGE]
