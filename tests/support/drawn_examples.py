"""What Hypothesis draws: always the same in `make test`, at random in `make explore` and `make test-slow`."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

#: Hypothesis' profiles: the one that is loaded unless `--hypothesis-profile` names the other.
FIXED, EXPLORE = "fixed", "explore"

#: Seconds for a test without a limit of its own. It waits for nothing: a state machine takes 15 s of a processor that
#: it has alone, and ten times as long on one that others use.
_LIMIT_S = 240

#: The environment variable with the factor by which more examples are drawn at random.
FACTOR = "EXPLORE_FACTOR"


def load_profiles() -> None:
    """Register both profiles, and load the fixed one."""
    register_profiles()
    settings.load_profile(FIXED)
    _draw_without_local_constants()


def register_profiles() -> None:
    """Register both profiles. A test that says nothing else has a hundred examples, or that many times the factor."""
    # On a busy machine any example may take longer than Hypothesis' 200 ms.
    both: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}
    settings.register_profile(FIXED, derandomize=True, max_examples=100, **both)
    settings.register_profile(EXPLORE, derandomize=False, print_blob=True, max_examples=100 * _factor(), **both)


def is_exploring() -> bool:
    """Whether examples are drawn at random."""
    return not settings().derandomize


def times_factor(number: int) -> int:
    """A number of examples or seconds; at random, as many times as the environment says."""
    return number * _factor() if is_exploring() else number


def _factor() -> int:
    return int(os.environ.get(FACTOR, "1"))


def mark_drawn(items: list[pytest.Item]) -> None:
    """Mark all tests whose examples Hypothesis draws as ``drawn``, and give them time for more examples.

    Machines that look for a planted fault draw always the same; they get the same time.
    """
    for item in items:
        if _is_drawn(item):
            item.add_marker(pytest.mark.drawn)
        if item.get_closest_marker("drawn") or "assert_finds" in _names_in(item):
            limit = item.get_closest_marker("timeout")
            item.add_marker(pytest.mark.timeout(times_factor(limit.args[0] if limit else _LIMIT_S)), append=False)


def _is_drawn(item: pytest.Item) -> bool:
    return is_hypothesis_test(getattr(item, "obj", None)) or "drive_machine" in _names_in(item)


def _names_in(item: pytest.Item) -> tuple[str, ...]:
    function = getattr(item, "obj", None)
    return getattr(getattr(function, "__code__", None), "co_names", ())


def _draw_without_local_constants() -> None:
    """Have the fixed profile draw no numbers and texts that stand in our modules.

    Hypothesis draws some of the constants of all modules that the process has imported. So the same test would draw
    something else after other tests, in whatever order pytest-xdist gives them out, and after a change of the product.
    """
    collect = providers._get_local_constants
    none = Constants()
    providers._get_local_constants = lambda: collect() if is_exploring() else none
