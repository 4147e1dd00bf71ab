"""The one check of numbers."""

from __future__ import annotations

import math

import pytest

from orchestrator.core.checks.numbers import check_number, check_whole_number, is_number, is_whole_number
from orchestrator.core.errors import InvalidPolicy


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.5, 1.0])
def test_a_number_within_its_bounds_and_at_them_is_one(value):
    assert is_number(value, 0, 1)


@pytest.mark.parametrize("value", [True, False, None, "1", [1], -0.1, 1.1, math.nan, math.inf])
def test_a_bool_a_text_and_what_is_out_of_bounds_is_none(value):
    assert not is_number(value, 0, 1)


def test_without_bounds_every_number_is_one():
    assert all(is_number(value) for value in (-1e300, math.inf, math.nan, 0))


@pytest.mark.parametrize("value", [1.0, True, "1", None, 10, -1])
def test_a_float_is_no_whole_number(value):
    assert not is_whole_number(value, 0, 9)


def test_an_error_names_the_value_and_what_is_allowed():
    with pytest.raises(InvalidPolicy, match=r"^jitter=2 is not allowed; allowed: a number from 0 to 1$"):
        check_number("jitter", 2, 0, 1)
    with pytest.raises(InvalidPolicy, match=r"^limit=True is not allowed; allowed: a whole number from 1 to 5$"):
        check_whole_number("limit", True, 1, 5)


def test_bounds_are_written_without_exponents():
    with pytest.raises(InvalidPolicy, match=r"a number from 0\.001 to 31536000$"):
        check_number("open_s", 10**9, 0.001, 365 * 86400.0)


def test_a_number_comes_back_as_a_float():
    assert type(check_number("jitter", 1, 0, 1)) is float
