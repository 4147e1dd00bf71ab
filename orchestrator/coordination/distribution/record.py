"""What is recorded of a distribution under its idempotency key, so that a later call with that key has its report."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.coordination.distribution.backend import OnceOnly
from orchestrator.coordination.distribution.report import DistributionReport, GivenItem
from orchestrator.core.coordination.distribution import DistributionStrategy
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.policies.policy import OnError
from orchestrator.sending.broadcast import Refusal


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key, for how long it is remembered, and the fingerprint of its items."""

    key: str
    ttl_ms: int
    fingerprint: str


def fingerprint(keys: Sequence[Any], messages: Sequence[Message]) -> str:
    """The same for the same items, by the same names, in the same order."""
    digest = hashlib.sha256()
    for key, message in zip(keys, messages, strict=True):
        item = [key, message_name(type(message)), encode(message)]
        digest.update(json.dumps(item, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def item_ids(id: str, count: int) -> list[str]:
    """The ids of a distribution's items, which follow from its own: a hundred thousand need not be recorded."""
    first = UUID(id).int
    return [str(UUID(int=(first + number) % 2**128)) for number in range(1, count + 1)]


def once_only(key: Key, report: DistributionReport) -> OnceOnly:
    """What is recorded of a distribution if it is accepted."""
    places = {agent: place for place, agent in enumerate(report.agents)}
    kinds = {(item.agent, item.message): item for item in report.items}
    record = {
        "items": key.fingerprint,
        "id": report.id,
        "strategy": report.strategy.value,
        "agents": report.agents,
        "left_out": {agent: why.value for agent, why in report.left_out.items()},
        "kinds": [[agent, message, one.queue, one.on_error.value] for (agent, message), one in kinds.items()],
        # A byte an item: a distribution has at most 200 agents.
        "places": base64.b64encode(zlib.compress(bytes(places[item.agent] for item in report.items))).decode(),
    }
    return OnceOnly(key.key, key.ttl_ms, json.dumps(record))


def read_record(record: str, key: Key, keys: Sequence[Any], messages: Sequence[Message]) -> DistributionReport:
    """The report of the distribution that was accepted under a key, for a later call with the same items.

    Raises:
        InvalidPolicy: the later call has other items.
    """
    known = json.loads(record)
    if known["items"] != key.fingerprint:
        allowed = "another key: a distribution of other items was accepted under this one"
        raise InvalidPolicy("idempotency_key", key.key, allowed)
    agents = tuple(known["agents"])
    kinds = {(agent, message): (queue, OnError(on_error)) for agent, message, queue, on_error in known["kinds"]}
    places = zlib.decompress(base64.b64decode(known["places"]))
    items = []
    for name, id, place, message in zip(keys, item_ids(known["id"], len(places)), places, messages, strict=True):
        agent, type_name = agents[place], message_name(type(message))
        queue, on_error = kinds[agent, type_name]
        items.append(GivenItem(name, id, agent, type_name, queue, on_error))
    left_out = {agent: Refusal(why) for agent, why in known["left_out"].items()}
    return DistributionReport(known["id"], DistributionStrategy(known["strategy"]), tuple(items), agents, left_out)
