"""Sends a message to an agent, and returns its outcome, dead letter and ledger counts."""

from __future__ import annotations

from typing import Any

from orchestrator import Message
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.ledger import LedgerRow
from tests.support.cluster import Cluster

WAIT_S = 20


def purge(cluster: Cluster) -> None:
    with cluster.orchestrator.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("worker")


def now_s(cluster: Cluster) -> float:
    seconds, micros = cluster.redis.time()
    return float(seconds) + float(micros) / 1e6


def changes(before: LedgerRow, after: LedgerRow) -> dict[str, int]:
    """What has been counted meanwhile."""
    names = ("accepted", "handled", "dead", "expired", "cancelled", "retried", "redelivered", "restarted", "duplicated")
    return {n: d for n in names if (d := getattr(after, n) - getattr(before, n))}


def send(cluster: Cluster, message: Message, **options: Any) -> tuple[Any, DeadLetter | None, dict[str, int]]:
    """Send; returns the outcome, the dead letter there is now, and what the ledger counted."""
    before = cluster.row()
    known = {letter.id for letter in cluster.orchestrator.dead_letters.list(1000)}
    delivery = cluster.orchestrator.send("worker", message, **options)
    outcome = delivery.wait(timeout_s=WAIT_S) if options.get("on_error") != "raise" else delivery.outcome()
    if cluster.has_worker:
        cluster.idle()
    after = cluster.row()
    assert after.balanced
    new = [letter for letter in cluster.orchestrator.dead_letters.list(1000) if letter.id not in known]
    assert len(new) < 2
    return outcome, (new[0] if new else None), changes(before, after)
