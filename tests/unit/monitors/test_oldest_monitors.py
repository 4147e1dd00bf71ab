"""The oldest monitors of many, as they are listed: each once, and never more kept than are wanted."""

from __future__ import annotations

import random

import pytest

from orchestrator.monitors.entry import Record, oldest_records


def record(ref: int) -> Record:
    return Record(ref, "o#1", "o", 1, '""', "", "t", ("t#2",))


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 1000])
def test_the_oldest_come_in_order_and_once_although_redis_repeats_some(limit: int) -> None:
    dice = random.Random(5)
    refs = [*range(1, 101), *dice.choices(range(1, 101), k=60)]
    dice.shuffle(refs)
    assert [r.ref for r in oldest_records(map(record, refs), limit)] == list(range(1, 101))[:limit]
