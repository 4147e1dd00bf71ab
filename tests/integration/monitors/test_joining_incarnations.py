"""Incarnations that join between the look-up of a target's name and the script that creates its monitor."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.errors import BrokerUnavailable
from tests.support.monitors_under_test import RedisUnderTest


@pytest.fixture
def ground(redis_url: str) -> Any:
    ground = RedisUnderTest(redis_url)
    yield ground
    ground.close()


def test_names_are_looked_up_again_if_an_incarnation_has_joined_since(ground: RedisUnderTest) -> None:
    with ground.monitors.session() as session:
        session.monitor("target", "before")
        first, second = ground.incarnation("target"), ground.join("target")
        session.monitor("target", "after")
        tags = {entry.tag: set(entry.incarnations) for entry in ground.monitors.list()}
        assert tags == {"before": {first}, "after": {first, second}}
        ground.die("target")
        assert [entry.tag for entry in ground.monitors.list()] == ["after"]
        assert ground.inconsistencies() == []


def test_that_ends_if_one_joins_each_time(ground: RedisUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    run, joined = ground.monitors.run, []

    def joins(*call: Any) -> Any:
        joined.append(ground.join("other"))
        return run(*call)

    with ground.monitors.session() as session:
        monkeypatch.setattr(ground.monitors, "run", joins)
        with pytest.raises(BrokerUnavailable, match="incarnations joined in each of 20 attempts to look up names"):
            session.monitor("target")
        monkeypatch.undo()
        assert len(joined) == 20
        assert ground.monitors.list() == []
        session.monitor("target")
