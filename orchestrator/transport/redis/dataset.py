"""The identity of what Redis holds: a data set that was lost is not taken for one in which nothing ever happened.

It is written once, when the first incarnation registers. Each process remembers the data set in which it registered
last; one that has to register anew in another data set records there that the former was lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_text
from orchestrator.telemetry import emit, events
from orchestrator.transport.redis import commands

logger = get_logger(__name__)

#: Number of recorded deaths that are searched, newest first.
_DEATHS = 1000

#: Runs one of the transport's scripts.
Run = Callable[[str, list[str], list[Any]], Any]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set as a process knows it."""

    id: str
    born_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A data set that was lost: it was replaced by another, or went back to an earlier state."""

    #: ``replaced`` or ``rewound``.
    kind: str
    #: When it was noticed, by Redis' clock.
    noticed_ms: int
    #: Of one that was replaced: when it was born.
    born_ms: int = 0
    #: Of one that was rewound: for how long it had been written to since.
    lost_ms: int = 0


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """A data set as Redis describes it."""

    dataset: Dataset
    #: What was lost and has not been acknowledged, the latest of each kind.
    losses: tuple[Loss, ...] = ()


def identify(run: Run, keys: Keys, before: Dataset | None) -> Dataset:
    """The data set behind a connection; ``before`` is the one that this process registered in last.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    new_id = os.urandom(8).hex()
    call = commands.identify_dataset(keys, new_id)
    if before is not None:
        call = commands.identify_dataset(keys, new_id, known_id=before.id, born_ms=before.born_ms, epoch=before.epoch)
    raw, born_ms, epoch = run(*call)
    return Dataset(raw.decode(), int(born_ms), int(epoch))


def find_loss(call: Callable[..., Any], keys: Keys, known: Dataset, incarnation: str, age_ms: int) -> Loss | None:
    """The loss of data by which an incarnation has no lease; ``None`` if it was declared dead.

    ``age_ms`` is how long ago it registered in the data set ``known``.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    fields = call("HGETALL", keys.dataset)
    if isinstance(fields, list):
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    seconds, micros = call("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    record = parse(fields)
    if record is None or record.dataset.id != known.id:
        return Loss("replaced", now_ms, born_ms=known.born_ms)
    for _, died in call("XREVRANGE", keys.deaths, "+", "-", "COUNT", _DEATHS):
        if incarnation.encode() in (died.values() if isinstance(died, dict) else died):
            return None
    return Loss("rewound", now_ms, lost_ms=age_ms)


def record_rewind(call: Callable[..., Any], keys: Keys, loss: Loss) -> None:
    """Write down that the data set went back to an earlier state.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    call("HSET", keys.dataset, "rewound_ms", loss.noticed_ms, "rewound_by_ms", loss.lost_ms)


def report_loss(loss: Loss, known: Dataset, address: str, incarnation: str) -> None:
    """Log what was lost, and emit it."""
    born = datetime.fromtimestamp(known.born_ms / 1000, UTC).isoformat(timespec="seconds")
    if loss.kind == "replaced":
        logger.error(
            "Redis at %s has lost its data: messages that had been accepted and had no outcome are gone, and with them "
            "outcomes, dead letters, monitors and idempotency keys (data set %s, begun %s). Was it restarted without "
            "persistence, flushed, or replaced by another server? %s ends, and this process registers anew",
            address, known.id, born, incarnation,
        )  # fmt: skip
    else:
        logger.error(
            "Redis at %s went back to an earlier state: what it accepted or settled in the last %.1f s before it was "
            "lost is gone (data set %s, begun %s). Was it restarted from a snapshot or with appendfsync everysec, or "
            "did a replica take over that was behind? Noticed by %s",
            address, loss.lost_ms / 1000, known.id, born, incarnation,
        )  # fmt: skip
    emit(
        events.DATASET_LOST,
        {"lost_s": loss.lost_ms / 1000},
        kind=loss.kind,
        dataset=known.id,
        born=born,
        incarnation=incarnation,
    )


def parse(fields: dict[bytes, bytes]) -> DatasetRecord | None:
    """The record in the data set's hash; ``None`` if no incarnation has ever registered."""
    said = {stored_text(name): stored_text(value) for name, value in fields.items()}
    if "id" not in said:
        return None

    def number(name: str) -> int:
        text = said.get(name) or "0"
        try:
            return int(float(text))
        except (ValueError, OverflowError):
            logger.error("data set: %s is %r, which is no number", name, text)
            return 0

    losses = []
    acknowledged_ms = number("acknowledged_ms")
    if number("lost_ms") > acknowledged_ms:
        losses.append(Loss("replaced", number("lost_ms"), born_ms=number("lost_born_ms")))
    if number("rewound_ms") > acknowledged_ms:
        losses.append(Loss("rewound", number("rewound_ms"), lost_ms=number("rewound_by_ms")))
    return DatasetRecord(Dataset(said["id"], number("born_ms"), number("epoch")), tuple(losses))
