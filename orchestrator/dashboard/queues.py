"""Queue lengths in Flower, whose own Redis broker page counts lists and so would show zero for every stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flower.utils.broker import RedisBase

from orchestrator.core.keys import GROUP, RETURNED, Keys


async def queue_lengths(broker: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    """``[{"name": …, "messages": …}]``: what waits in each mailbox, delayed messages included.

    ``broker`` is Flower's broker object: its connection, its priority steps, its key prefix.
    """
    keys = Keys(broker.broker_prefix)
    steps = (RETURNED, *(str(step) for step in broker.priority_steps))
    rows = []
    for name in names:
        streams = [keys.step(name, step) for step in steps]
        async with broker.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(keys.delayed(name))
            for stream in streams:
                pipe.xlen(stream)
            for stream in streams:
                pipe.xpending(stream, GROUP)
            delayed, *answers = await pipe.execute(raise_on_error=False)
        lengths, held = answers[: len(streams)], answers[len(streams) :]
        waiting = sum(n for n in (delayed, *lengths) if isinstance(n, int))
        # A stream nobody has consumed from has no group yet, and answers with an error.
        waiting -= sum(p["pending"] for p in held if isinstance(p, dict))
        rows.append({"name": name, "messages": waiting})
    return rows


def install() -> None:
    """Have Flower's Redis brokers count streams. Called when Flower loads an app that has an Orchestrator."""
    RedisBase.queues = queue_lengths
