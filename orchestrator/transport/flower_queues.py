"""Queue lengths in Flower, whose own Redis broker page counts lists and so would show zero for every stream."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from importlib import import_module
from typing import Any

from redis.exceptions import ResponseError

from orchestrator.core.keys import GROUP, Keys, levels_of
from orchestrator.core.stored_values import stored_text

Lengths = list[dict[str, Any]]
Queues = Callable[[Any, Iterable[str]], Awaitable[Lengths]]


def install() -> None:
    """Have Flower's Redis brokers count streams. In a process that is no Flower, and a second time, it does nothing."""
    if "flower.app" not in sys.modules:
        return
    base: Any = import_module("flower.utils.broker").RedisBase
    if base.queues.__module__ != __name__:
        base.queues = counting_streams(base.queues)


def counting_streams(flowers_own: Queues) -> Queues:
    """Flower's ``RedisBase.queues``, asking each broker whether it keeps mailboxes in streams."""

    async def queues(broker: Any, names: Iterable[str]) -> Lengths:
        """``[{"name": …, "messages": …}]``: what waits in each mailbox, delayed messages included.

        ``broker`` is Flower's broker object: its connection, its priority steps, its key prefix. Besides the queues
        that Flower names, which are those that workers consume, every other mailbox is counted too: what waits for an
        agent that is down is what one looks for. A Redis without mailboxes is asked in Flower's own way.
        """
        names = list(names)
        # Flower makes a broker object, and with it a connection, for every page.
        async with aclosing(broker.redis):
            lengths = await _lengths(broker, names)
            return await flowers_own(broker, names) if lengths is None else lengths

    return queues


async def _lengths(broker: Any, names: list[str]) -> Lengths | None:
    """The number of messages in each mailbox; ``None`` if there are none, or this user of Redis may not know."""
    try:
        mailboxes = await broker.redis.smembers(Keys(broker.broker_prefix).queues)
    except ResponseError:
        return None
    if not mailboxes:
        return None
    every = {*names, *(stored_text(raw) if isinstance(raw, bytes) else raw for raw in mailboxes)}
    return [{"name": name, "messages": await _waiting(broker, name)} for name in sorted(every)]


async def _waiting(broker: Any, name: str) -> int:
    keys = Keys(broker.broker_prefix)
    streams = [keys.stream(name, level) for level in levels_of(broker.priority_steps)]
    async with broker.redis.pipeline(transaction=False) as pipe:
        pipe.zcard(keys.delayed(name))
        for level in broker.priority_steps:
            # Where kombu's own transport keeps the queue, for an app that still uses it.
            pipe.llen(broker.broker_prefix + broker._q_for_pri(name, level))
        for stream in streams:
            pipe.xlen(stream)
        for stream in streams:
            pipe.xpending(stream, GROUP)
        # A stream nobody has consumed from has no group yet, and answers with an error.
        answers = await pipe.execute(raise_on_error=False)
    waiting: int = sum(answer for answer in answers if isinstance(answer, int))
    held: int = sum(answer["pending"] for answer in answers if isinstance(answer, dict))
    return waiting - held
