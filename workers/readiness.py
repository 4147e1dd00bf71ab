"""Whether a deployment that was just started is ready, so that measurements do not include its start."""

from __future__ import annotations

from typing import Any

from orchestrator.maintenance import manager
from orchestrator.registry.registry import Registry
from orchestrator.transport.store import Store


def is_up(store: Store, registry: Registry, workers: int) -> bool:
    """Whether this number of workers is registered, and the monitor manager sweeps and may declare workers dead.

    In its first two seconds it may not: a worker without a heartbeat may just be starting.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    if len(registry.incarnations()) < workers:
        return False
    client: Any = store.client
    by, counts_from_ms = client.hmget(store.keys.sweep, "by", "closed_counts_ms")
    seconds, microseconds = client.time()
    return bool(by == manager.QUEUE.encode() and seconds * 1000 + microseconds // 1000 >= int(counts_from_ms or 0))
