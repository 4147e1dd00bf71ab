"""The gauges that Prometheus reads: the state in Redis at the time of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.admission.breaker import Phase
from orchestrator.core.gauge import Gauge
from orchestrator.core.stored_values import stored_counts, stored_number
from orchestrator.registry.mailboxes import MailboxState, read_mailboxes
from orchestrator.registry.registry import Registry
from orchestrator.transport.store import Store

_PHASES = {Phase.CLOSED: 0.0, Phase.HALF_OPEN: 0.5, Phase.OPEN: 1.0, Phase.ISOLATED: 1.0}


def read_gauges(store: Store, registry: Registry) -> Iterator[Gauge]:
    """The current gauges. Every worker exports the same values: take their ``max``, not their sum.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    incarnations = registry.incarnations()
    mailboxes = read_mailboxes(store, incarnations)

    def of_mailboxes(name: str, meaning: str, value_of: Callable[[MailboxState], float | None]) -> Gauge:
        values = {mailbox.queue: value_of(mailbox) for mailbox in mailboxes}
        return Gauge(name, meaning, "queue", {queue: value for queue, value in values.items() if value is not None})

    yield of_mailboxes("mailbox_waiting", "Messages that are due and claimed by nobody.", lambda m: m.waiting)
    yield of_mailboxes("mailbox_delayed", "Messages that are not yet due.", lambda m: m.delayed)
    yield of_mailboxes("mailbox_held", "Messages that workers have claimed.", lambda m: m.held)
    yield of_mailboxes(
        "mailbox_on_hold",
        "Messages that wait in a mailbox on hold.",
        lambda m: m.waiting + m.delayed if m.on_hold_for else 0,
    )
    yield of_mailboxes(
        "mailbox_oldest_waiting_seconds",
        "For how long the oldest waiting message has waited.",
        lambda m: m.oldest_waiting_s if m.waiting else 0.0,
    )
    yield of_mailboxes("mailbox_limit", "The mailbox' bound.", lambda m: m.limit)
    yield of_mailboxes("mailbox_workers", "Living workers that consume from it.", lambda m: len(m.served_by))
    yield of_mailboxes(
        "breaker_open",
        "Whether the agent's circuit breaker is open or isolated (1), half-open (0.5) or closed (0).",
        lambda m: None if m.breaker is None else _PHASES[m.breaker],
    )
    yield Gauge("workers", "Living workers.", "", {"": len(incarnations)})
    try:
        letters = int(store.client.xlen(store.keys.dead_letters))
        at_ms = store.client.hget(store.keys.sweep, "at_ms")
        runs: Any = store.client.hgetall(store.keys.open_runs)
        seconds, microseconds = store.client.time()
    except RedisError as error:
        raise store.failure(error) from error
    yield Gauge("dead_letters", "Dead letters, open and parked.", "", {"": letters})
    open_runs = {name: float(n) for name, n in stored_counts(store.keys.open_runs, runs).items()}
    yield Gauge("workflow_runs_open", "Runs of workflows that have not ended.", "workflow", open_runs)
    if at_ms is not None:
        age_s = max(0.0, seconds + microseconds / 1e6 - stored_number(store.keys.sweep, "at_ms", at_ms) / 1000)
        yield Gauge("sweep_age_seconds", "Since the last sweep.", "", {"": age_s})
