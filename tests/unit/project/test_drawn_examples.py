"""What Hypothesis draws in `make test` depends on the test alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.drawn_examples import EXPLORE, FACTOR, FIXED, is_exploring, register_profiles, times_factor

FIXED_SETTINGS = settings(settings.get_profile(FIXED), max_examples=200)


def draw() -> list[Any]:
    drawn = []

    @FIXED_SETTINGS
    @given(st.integers() | st.text())
    def test(value: int | str) -> None:
        drawn.append(value)

    test()
    return drawn


def test_the_fixed_profile_is_loaded_by_default(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--hypothesis-profile") == EXPLORE:
        pytest.skip("another profile was asked for")
    assert (settings.get_current_profile_name(), settings().derandomize, settings().database) == (FIXED, True, None)


def test_the_same_is_drawn_again() -> None:
    assert draw() == draw()


def test_the_same_is_drawn_whichever_modules_the_tests_before_have_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = draw()
    path = tmp_path / "constants.py"
    path.write_text(f"NUMBERS = {[7_000_001 + number for number in range(300)]}\n")
    module = ModuleType("constants_of_a_test")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert draw() == before


def test_exploring_draws_at_random_and_prints_what_reproduces_it() -> None:
    exploring = settings.get_profile(EXPLORE)
    assert (exploring.derandomize, exploring.print_blob, exploring.deadline) == (False, True, None)
    assert HealthCheck.too_slow in exploring.suppress_health_check


@pytest.mark.parametrize(("profile", "examples"), [(FIXED, 25), (EXPLORE, 250)])
def test_only_exploring_multiplies_examples(monkeypatch: pytest.MonkeyPatch, profile: str, examples: int) -> None:
    monkeypatch.setenv(FACTOR, "10")
    loaded = settings.get_current_profile_name()
    settings.load_profile(profile)
    try:
        assert (is_exploring(), times_factor(25)) == (profile == EXPLORE, examples)
        register_profiles()
        assert [settings.get_profile(name).max_examples for name in (FIXED, EXPLORE)] == [100, 1000]
    finally:
        monkeypatch.undo()
        register_profiles()
        settings.load_profile(loaded)
