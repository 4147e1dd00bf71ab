"""Outcomes of many calls are read in parts, so that no read is longer than a script may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import Orchestrator
from orchestrator.core.workflows.run_calls import CallList
from orchestrator.workflows.functions.history import history_of
from orchestrator.workflows.redis import scripts


def test_one_read_ends_after_a_megabyte(shop: Orchestrator) -> None:
    store = shop.runtime.store
    key = f"{store.keys.run('u')}:outcomes"
    for number in (0, 1, 2, 4):
        store.client.hset(key, str(number), "x" * 400_000)
    store.client.hset(key, "5", "y" * 3_000_000)

    def read(*numbers: str) -> list[int]:
        return [len(outcome) for outcome in store.run(*scripts.read_outcomes(store.keys, "u", numbers))]

    assert read("0", "1", "2", "3", "4") == [400_000] * 3
    assert read("3", "4", "5", "0") == [0, 400_000, 3_000_000]
    assert read("5", "0") == [3_000_000]


def test_a_history_is_whole_though_each_read_is_short() -> None:
    recorded: dict[str, Any] = {
        str(number): {"outcome": "handled", "result": number, "attempts": 1} for number in range(5)
    }
    recorded["x0"] = {"suspended": {"entries": [["now", 7], *([f"call {number}"] for number in range(5))]}}
    reads: list[int] = []

    def read_some(numbers: Sequence[str]) -> list[Any]:
        reads.append(len(numbers))
        return [recorded[number] for number in numbers[:2]]

    history = history_of({}, CallList(6, "0-4"), read_some, lambda numbers: [recorded[n] for n in numbers], lambda _: 0)
    assert [entry.number for entry in history.entries] == [None, "0", "1", "2", "3", "4"]
    assert [getattr(history.outcome(str(number)), "result", None) for number in range(5)] == [0, 1, 2, 3, 4]
    assert reads == [1, 5, 3, 1]
