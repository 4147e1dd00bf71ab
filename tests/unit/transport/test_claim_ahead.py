"""How many messages are claimed ahead, by the rate of the last deliveries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.transport.claim_ahead import ClaimAhead


def drain(ahead: ClaimAhead, *durations_s: float) -> list[int]:
    """Claims one after the other, each of one message and what may be claimed ahead; the numbers claimed ahead."""
    now_s, counts = 100.0, []
    for duration_s in durations_s:
        ahead.claimed(1 + ahead.count, now_s)
        now_s += duration_s
        ahead.drained(now_s)
        counts.append(ahead.count)
    return counts


def test_it_begins_with_none_and_at_most_doubles_with_each_claim() -> None:
    ahead = ClaimAhead(64)
    assert ahead.count == 0
    assert drain(ahead, *[0.001] * 6) == [2, 6, 14, 30, 62, 64]


def test_no_more_is_claimed_than_runs_within_a_moment() -> None:
    assert drain(ClaimAhead(64), 0.01, 0.04) == [2, 3]


def test_nothing_is_claimed_ahead_of_messages_that_take_longer() -> None:
    assert drain(ClaimAhead(64), 0.06, 1.0, 0.2) == [0, 0, 0]


def test_after_a_stall_it_begins_anew() -> None:
    ahead = ClaimAhead(64)
    drain(ahead, *[0.001] * 6)
    ahead.claimed(65, 0.0)
    ahead.stalled()
    assert ahead.count == 0
    ahead.drained(10.0)
    assert ahead.count == 0
    assert drain(ahead, 0.001) == [2]


def test_the_time_in_which_there_was_nothing_to_claim_does_not_count() -> None:
    ahead = ClaimAhead(64)
    drain(ahead, 0.001)
    ahead.claimed(0, 0.0)
    ahead.drained(1000.0)
    assert ahead.count == 2


@given(st.lists(st.floats(0, 10), max_size=50), st.integers(1, 64))
def test_the_number_stays_within_its_bounds(durations_s: list[float], most: int) -> None:
    assert all(0 <= count <= most for count in drain(ClaimAhead(most), *durations_s))
