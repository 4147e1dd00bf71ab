"""Overrides of timeouts in eager mode, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator import InvalidPolicy, Orchestrator
from orchestrator.eager.eager_mode import EagerMode
from orchestrator.timeouts.overrides import InMemoryOverrides
from tests.apps import agents_app
from tests.support.cluster import NO_REDIS


@pytest.fixture
def orchestrator() -> Orchestrator:
    settings: dict[str, Any] = {
        "timeout_classes": {"long": 600},
        "deadlines": {"worker.Add": 30},
        "timeouts": {"worker.TimeLeft": 7},
    }
    return agents_app.make(NO_REDIS, eager=True, **settings)


def left_s(orchestrator: Orchestrator, **options: Any) -> Any:
    outcome: Any = orchestrator.send("worker", agents_app.TimeLeft(), **options).wait(timeout_s=1)
    return outcome.result[0]


def test_an_override_replaces_the_timeout_wherever_that_comes_from(orchestrator: Orchestrator) -> None:
    assert left_s(orchestrator) == pytest.approx(7, abs=1)
    made = orchestrator.timeouts.override("worker.TimeLeft", 60, for_s=3600)
    assert (made.name, made.timeout_s, made.until_ms - made.at_ms) == ("worker.TimeLeft", 60, 3_600_000)
    assert "@" in made.by
    assert left_s(orchestrator) == pytest.approx(60, abs=1)
    assert left_s(orchestrator, timeout_s=5) == pytest.approx(60, abs=1)
    assert left_s(orchestrator, deadline_s=20) == pytest.approx(20, abs=1)
    assert [one.name for one in orchestrator.timeouts.overrides()] == ["worker.TimeLeft"]
    assert orchestrator.timeouts.clear("worker.TimeLeft") == 1
    assert left_s(orchestrator) == pytest.approx(7, abs=1)


def test_it_ends_by_itself(orchestrator: Orchestrator) -> None:
    now_s = [1000.0]
    mode = orchestrator.runtime.mode
    assert isinstance(mode, EagerMode)
    mode.overrides = InMemoryOverrides(lambda: now_s[0])
    orchestrator.timeouts.override("worker.TimeLeft", 60, for_s=10)
    now_s[0] += 9.9
    assert left_s(orchestrator) == pytest.approx(60, abs=1)
    now_s[0] += 0.2
    assert left_s(orchestrator) == pytest.approx(7, abs=1)
    assert orchestrator.timeouts.overrides() == []


def test_the_factor_is_applied_once() -> None:
    orchestrator = agents_app.make(NO_REDIS, eager=True, timeout_factor=3)
    orchestrator.timeouts.override("*.TimeLeft", 20, for_s=60)
    assert left_s(orchestrator) == pytest.approx(60, abs=1)


def test_a_plain_task_that_is_sent_under_supervision_has_it_too(orchestrator: Orchestrator) -> None:
    def left() -> float | None:
        return orchestrator.timeouts.remaining_s()

    task = orchestrator.app.task(name="plain.left", shared=False)(left)
    orchestrator.timeouts.override("plain.left", 60, for_s=60)
    outcome: Any = orchestrator.send(task).wait(timeout_s=1)
    assert outcome.result == pytest.approx(60, abs=1)
    assert orchestrator.timeouts.remaining_s() is None


@pytest.mark.parametrize(
    ("name", "timeout_s", "for_s", "error"),
    [
        ("worker.Ad", 5, 60, r"name='worker\.Ad'.*did you mean 'worker\.Add'"),
        ("Worker", 5, 60, r"name='Worker'.*did you mean 'worker'"),
        ("*.Nothing", 5, 60, r"name='\*\.Nothing'.*allowed: an agent, a message or a task that is known, or a pattern"),
        ("", 5, 60, r"name=''"),
        (None, 5, 60, r"name=None"),
        ("worker.Pay", 0, 60, r"timeout_s=0.*above 0"),
        ("worker.Pay", -1, 60, r"timeout_s=-1"),
        ("worker.Pay", math.nan, 60, r"timeout_s=nan"),
        ("worker.Pay", math.inf, 60, r"timeout_s=inf"),
        ("worker.Pay", True, 60, r"timeout_s=True"),
        ("worker.Pay", "lang", 60, r"timeout_s='lang'.*\(long\); did you mean 'long'"),
        ("worker.Add", 31, 60, r"at most deadline_s=30 of worker\.Add \(said by settings\)"),
        ("worker.Add", "long", 60, r"timeout_s='600 \(long\)'.*at most deadline_s=30"),
        ("worker", 31, 60, r"at most deadline_s=30 of worker\.Add"),
        ("worker.Pay", 5, 0, r"for_s=0.*up to 30 days"),
        ("worker.Pay", 5, math.nan, r"for_s=nan"),
        ("worker.Pay", 5, 31 * 86400, r"for_s="),
    ],
)
def test_what_cannot_be_is_refused(
    orchestrator: Orchestrator, name: Any, timeout_s: Any, for_s: Any, error: str
) -> None:
    with pytest.raises(InvalidPolicy, match=error):
        orchestrator.timeouts.override(name, timeout_s, for_s=for_s)
    assert orchestrator.timeouts.overrides() == []


def test_clearing_what_is_not_overridden_is_refused_with_the_nearest(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidPolicy, match="none is overridden"):
        orchestrator.timeouts.clear("worker")
    orchestrator.timeouts.override("worker.Pay", 5, for_s=60)
    orchestrator.timeouts.override("plain.add", "long", for_s=60)
    with pytest.raises(InvalidPolicy, match=r"did you mean 'worker\.Pay'"):
        orchestrator.timeouts.clear("worker.Pai")
    no_names: list[Any] = ["", 5, []]
    for no_name in no_names:
        with pytest.raises(InvalidPolicy, match="or None for all"):
            orchestrator.timeouts.clear(no_name)
    assert orchestrator.timeouts.clear() == 2
    assert orchestrator.timeouts.clear() == 0
