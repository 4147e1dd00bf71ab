"""The numbers of attempts in a delivery's history."""

from __future__ import annotations

from orchestrator.core.deliveries.history import attempts_in, attempts_so_far
from orchestrator.core.deliveries.supervision import Failure, Supervision


def _failure(number: int) -> Failure:
    return Failure(number, "E", "e", "", f"2026-01-01T00:00:0{number * 2}.000+00:00", "w")


def _death(second: int) -> dict[str, object]:
    return {"at": 1767225600_000 + second * 1000, "by": "w", "reason": "killed"}


def test_no_two_attempts_have_one_number() -> None:
    ended = [
        [1, "2026-01-01T00:00:02.000+00:00", "w", "E: e", None],
        [2, "2026-01-01T00:00:04.000+00:00", "w", "handled", 1],
    ]
    attempts = attempts_in({"history": ended, "deaths": [_death(1), _death(3)]})
    died = "its worker died: killed"
    assert [(a.number, a.how) for a in attempts] == [(1, died), (2, "E: e"), (3, died), (4, "handled")]
    assert attempts[-1].runtime_s == 1


def test_attempts_that_were_forgotten_keep_their_numbers() -> None:
    attempts = attempts_so_far(Supervision(failures=(_failure(3), _failure(4))), [_death(7), _death(9)])
    assert [a.number for a in attempts] == [3, 4, 5, 6]
