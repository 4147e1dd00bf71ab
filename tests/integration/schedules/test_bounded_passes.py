"""A pass of a scheduler ends, also where what it decides does not move a schedule on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.changed_scripts import changed_scripts
from tests.support.schedules_under_test import Schedules, scheduling_app

MOST = 3


@pytest.fixture
def stuck(redis_url: str) -> Iterator[Schedules]:
    """A Redis whose script accepts each decision and leaves its schedule due."""
    advance = b"if due == '' then redis.call('ZREM', due_set, id) else redis.call('ZADD', due_set, due, id) end"
    write = b"schedules.write(root, most, totals, state, id, more, f[5] or 0)"
    changed = []

    def change(name: str, text: bytes) -> bytes:
        if advance in text:
            changed.append(name)
        return text.replace(advance, b"").replace(write, b"")

    with changed_scripts(change):
        made = Schedules(scheduling_app(redis_url))
        yield made
        made.app.close()
    assert changed


@pytest.mark.parametrize("count", [1, MOST, 5 * MOST])
def test_a_pass_ends_where_nothing_is_moved_on(stuck: Schedules, count: int) -> None:
    """Regression: only what was fired counted towards the end of a pass."""
    for number in range(count):
        stuck.declare(f"s{number}", due_s=100, every_s=1000, misfire_grace_s=5.0)
    due, fired = stuck.scheduler()._firing.pass_once(0, "mark", MOST)
    assert fired == 0
    assert due.schedules, "they are due still"
