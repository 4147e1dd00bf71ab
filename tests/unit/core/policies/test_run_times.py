"""Histograms of run times, and the timeouts that they suggest."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.policies.run_times import TIMED_OUT, bucket_of, quantile, suggest


def counted(times: list[float]) -> Counter[int]:
    return Counter(map(bucket_of, times))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.lognormvariate(-2, 1.2),
        lambda rng: rng.expovariate(3),
        lambda rng: rng.uniform(0.05, 0.4),
        lambda rng: rng.paretovariate(2) / 10,
        lambda rng: rng.choice([0.01, 0.011, 30.0]) if rng.random() < 0.05 else 0.01,
    ],
    ids=["lognormal", "exponential", "uniform", "pareto", "bimodal"],
)
def test_the_percentile_is_within_a_fifth_of_the_true_one(draw: object) -> None:
    rng = random.Random(7)
    times = sorted(draw(rng) for _ in range(20_000))  # type: ignore[operator]
    true_s = times[math.ceil(0.99 * len(times)) - 1]
    suggestion = suggest("a", counted(times), None)
    assert suggestion.p99_s == pytest.approx(true_s, rel=0.2)
    # With two digits, rounded up.
    assert suggestion.suggested_s == pytest.approx(2 * true_s, rel=0.2)


@given(st.lists(st.floats(0.0002, 2e6), min_size=1, max_size=200), st.floats(0.01, 1))
def test_any_quantile_is_wrong_by_a_share_that_is_bounded(times: list[float], q: float) -> None:
    times.sort()
    rank = math.ceil(q * len(times))
    assert quantile(counted(times), q) == pytest.approx(times[rank - 1], rel=0.0701)


def test_what_timed_out_is_longer_than_anything_that_was_handled() -> None:
    rare = Counter({bucket_of(1.0): 995, TIMED_OUT: 5})
    suggestion = suggest("a", rare, 5.0)
    assert (suggestion.handled, suggestion.timed_out) == (995, 5)
    assert suggestion.p99_s == pytest.approx(1, rel=0.07)
    often = Counter({bucket_of(1.0): 980, TIMED_OUT: 20})
    suggestion = suggest("a", often, 5.0)
    assert suggestion.p99_s is None
    assert suggestion.suggested_s == 10
    assert suggest("a", Counter({TIMED_OUT: 200}), 5.0).suggested_s == 10


def test_too_few_attempts_suggest_nothing() -> None:
    assert suggest("a", counted([1.0] * 99), None).suggested_s is None
    assert suggest("a", counted([1.0] * 100), None).suggested_s == pytest.approx(2, rel=0.07)
    assert suggest("a", Counter(), 5.0).p99_s is None


def test_what_is_suggested_is_multiplied_by_the_factor_when_it_applies() -> None:
    plain = suggest("a", counted([1.0] * 100), None).suggested_s
    scaled = suggest("a", counted([1.0] * 100), None, factor=4).suggested_s
    assert plain is not None
    assert scaled is not None
    assert scaled * 4 == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize(("seconds", "bucket"), [(0, -66), (1e-9, -66), (1e9, 107), (-1, TIMED_OUT), (1.0, 0)])
def test_there_are_not_many_buckets(seconds: float, bucket: int) -> None:
    assert bucket_of(seconds) == bucket
