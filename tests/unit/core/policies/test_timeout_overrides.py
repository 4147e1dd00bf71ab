"""The overrides of timeouts as a worker looks them up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.policies.timeout_overrides import Override, OverrideTable, overrides_in
from orchestrator.core.policies.timeouts import most_specific

NAMES = ("billing.Charge", "billing", "*.Charge", "*", "other")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def override(name: str, timeout_s: float, left_s: float) -> Override:
    return Override(name, timeout_s, 0, 0, left_s=left_s)


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 50), max_size=5), st.lists(st.integers(0, 60)))
def test_the_most_specific_override_that_has_not_ended_counts(left: dict[str, int], times: list[int]) -> None:
    clock = Clock()
    table = OverrideTable([override(name, place + 1.0, left[name]) for place, name in enumerate(left)], clock)
    assert bool(table) is bool(left)
    for passed_s in sorted(times):
        clock.now_s = 100.0 + passed_s
        living = {name: place + 1.0 for place, name in enumerate(left) if left[name] > passed_s}
        assert table.timeout_s("billing.Charge", "billing") == most_specific(living, ("billing.Charge", "billing"))


def test_names_of_tasks_do_not_fill_the_memory() -> None:
    table = OverrideTable([override("*", 1, 50)], Clock())
    for number in range(20_001):
        assert table.timeout_s(f"a{number}") == 1
    assert len(table._known) <= 10_000


def test_what_is_no_override_is_left_out() -> None:
    good = b'{"s":"60.5","at_ms":1,"until_ms":2500,"by":"ann@web"}'
    fields = {
        b"": b"17",
        b"billing.Charge": good,
        b"ended": b'{"s":"60.5","at_ms":1,"until_ms":500}',
        b"text": b"soon",
        b"list": b"[]",
        b"null": b"null",
        b"zero": b'{"s":"0","at_ms":1,"until_ms":2500}',
        b"nan": b'{"s":"nan","at_ms":1,"until_ms":2500}',
        b"short": b'{"s":"1"}',
    }
    assert overrides_in(fields, 500) == [Override("billing.Charge", 60.5, 1, 2500, "ann@web", 2.0)]


@pytest.mark.parametrize("agent", ["", "billing"])
def test_without_overrides_no_task_has_one(agent: str) -> None:
    assert OverrideTable().timeout_s("billing.Charge", agent) is None
