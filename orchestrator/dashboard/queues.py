"""Queue lengths in Flower, whose own Redis broker page counts lists and so would show zero for every stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flower.utils.broker import RedisBase

from orchestrator.core.keys import GROUP, Keys, steps_of


async def queue_lengths(broker: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    """``[{"name": …, "messages": …}]``: what waits in each mailbox, delayed messages included.

    ``broker`` is Flower's broker object: its connection, its priority steps, its key prefix. Besides the queues
    that Flower names, which are those that workers consume, every other mailbox is counted too: what waits for an
    agent that is down is what one looks for.
    """
    try:
        mailboxes = await broker.redis.smembers(Keys(broker.broker_prefix).queues)
        every = {*names, *(raw.decode() if isinstance(raw, bytes) else raw for raw in mailboxes)}
        return [{"name": name, "messages": await _waiting(broker, name)} for name in sorted(every)]
    finally:
        # Flower makes a broker object, and with it a connection, for every page.
        await broker.redis.aclose()


async def _waiting(broker: Any, name: str) -> int:
    keys = Keys(broker.broker_prefix)
    streams = [keys.step(name, step) for step in steps_of(broker.priority_steps)]
    async with broker.redis.pipeline(transaction=False) as pipe:
        pipe.zcard(keys.delayed(name))
        for step in broker.priority_steps:
            # Where kombu's own transport keeps the queue, for an app that still uses it.
            pipe.llen(broker.broker_prefix + broker._q_for_pri(name, step))
        for stream in streams:
            pipe.xlen(stream)
        for stream in streams:
            pipe.xpending(stream, GROUP)
        # A stream nobody has consumed from has no group yet, and answers with an error.
        answers = await pipe.execute(raise_on_error=False)
    waiting: int = sum(answer for answer in answers if isinstance(answer, int))
    held: int = sum(answer["pending"] for answer in answers if isinstance(answer, dict))
    return waiting - held


def install() -> None:
    """Have Flower's Redis brokers count streams. Called when Flower loads an app that has an Orchestrator."""
    RedisBase.queues = queue_lengths
