"""The example of ``docs/flow.md`` that keeps a late attempt from spoiling what its successor has written."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "flow.md"


def example() -> Any:
    """The function as the page shows it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (source,) = [block for block in blocks if "def set_balance" in block]
    namespace: dict[str, Any] = {"sqlite3": sqlite3}
    exec(compile(source, str(PAGE), "exec"), namespace)
    return namespace["set_balance"]


def test_a_late_attempt_is_refused() -> None:
    set_balance = example()
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE balances (account TEXT PRIMARY KEY, cents INTEGER, fence INTEGER)")
    first, second = 1_795_540_868_107 * 2**20, 1_795_540_878_107 * 2**20
    assert set_balance(db, "a", 100, second)
    assert not set_balance(db, "a", 50, first), "it was taken for dead, and its successor has written"
    assert set_balance(db, "a", 120, second), "the same attempt may write again"
    assert db.execute("SELECT cents FROM balances").fetchall() == [(120,)]
    db.close()


def test_the_page_begins_with_what_a_failover_can_do_and_what_a_fence_is_for() -> None:
    first = PAGE.read_text(encoding="utf-8").split("\n## ")[0]
    for said in ("failover", "fencing token", "min-replicas-to-write"):
        assert said in first
