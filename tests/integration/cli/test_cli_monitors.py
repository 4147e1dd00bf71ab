"""``monitors list | stats | leaks`` on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator.cli.monitors import monitors
from tests.support.command_line import invoke
from tests.support.monitors_under_test import RedisUnderTest


@pytest.fixture
def ground(redis_url: str) -> Iterator[RedisUnderTest]:
    ground = RedisUnderTest(redis_url)
    yield ground
    ground.close()


def test_listing_and_counting(ground: RedisUnderTest) -> None:
    app = ground.orchestrator.app
    assert "none" in invoke(app, monitors, "list").stdout
    ref = ground.monitors.monitor("target", "checkout", owner=ground.watcher())
    ground.monitors.monitor("other", {"n": 1}, owner=ground.watcher())
    table = invoke(app, monitors, "list").stdout
    assert "checkout" in table
    assert ground.watcher().id in table
    (entry,) = json.loads(invoke(app, monitors, "list", "--tag", "checkout", "--json").stdout)["monitors"]
    assert (entry["ref"], entry["owner_alive"], entry["target_alive"]) == (ref, True, True)
    assert json.loads(invoke(app, monitors, "list", "--target", "nobody", "--json").stdout) == {"monitors": []}
    stats = json.loads(invoke(app, monitors, "stats", "--json").stdout)
    assert (stats["created"], stats["active"], stats["leaked"]) == (2, 2, 0)
    assert "created" in invoke(app, monitors, "stats").stdout


def test_leaks_are_shown_then_tried_then_repaired(ground: RedisUnderTest) -> None:
    app = ground.orchestrator.app
    clean = invoke(app, monitors, "leaks")
    assert (clean.exit_code, "none" in clean.stdout) == (0, True)
    first, second = (ground.monitors.monitor("target", "twice", owner=ground.watcher()) for _ in range(2))
    shown = invoke(app, monitors, "leaks")
    assert shown.exit_code == 1
    assert "duplicate" in shown.stdout
    assert "test_cli_monitors.py" in shown.stdout
    tried = invoke(app, monitors, "leaks", "--sweep", "--dry-run", "--json")
    assert tried.exit_code == 1
    assert json.loads(tried.stdout)["would_repair"] == [second]
    assert ground.monitors.stats().active == 2
    repaired = invoke(app, monitors, "leaks", "--sweep")
    assert (repaired.exit_code, "1 leak repaired" in repaired.stdout) == (0, True)
    assert [entry.ref for entry in ground.monitors.list()] == [first]

    old = invoke(app, monitors, "leaks", "--age", "0", "--sweep", "--json")
    assert old.exit_code == 1, "old ones are repaired only when that is asked for"
    assert [(leak["kind"], leak["repaired"]) for leak in json.loads(old.stdout)["leaks"]] == [("old", False)]
    assert invoke(app, monitors, "leaks", "--age", "0", "--sweep", "--old").exit_code == 0
    assert ground.monitors.list() == []
    assert invoke(app, monitors, "leaks", "--old").exit_code == 2
