"""The checker finds what is planted, and nothing else: it is itself under test."""

from __future__ import annotations

import itertools
import random
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.history.linearizability import Model, Operation, find_violation
from tests.history.models import Counter, CyclicBarrier, DecideOnce, Election, Line, Permits


def op(process: str, act: str, invoked: float, returned: float, *, of: Any = None, result: Any = None) -> Operation:
    return Operation(process, "x", act, of, result, invoked, returned)


GOOD: list[tuple[str, Model, list[Operation]]] = [
    (
        "one after the other",
        Permits(),
        [
            op("a", "acquire", 0, 1, result=5),
            op("a", "release", 2, 3, of=5),
            op("b", "acquire", 0.5, 4, result=9),
        ],
    ),
    (
        "a release that nobody saw may have come in time",
        Permits(),
        [op("a", "acquire", 0, 1, result=5), op("a", "release", 2, inf, of=5), op("b", "acquire", 1, 9, result=9)],
    ),
    (
        "two permits",
        Permits(2),
        [op("a", "acquire", 0, 1, result=5), op("b", "acquire", 0, 1, result=6), op("a", "release", 2, 3, of=5)],
    ),
    (
        "a leader that is seen while it leads",
        Election(),
        [
            op("c", "leader", 0, 9, result=None),
            op("a", "campaign", 1, 2, result=7),
            op("c", "leader", 3, 4, result=7),
            op("a", "resign", 5, inf, of=7),
            op("c", "leader", 6, 7, result=7),
            op("c", "leader", 8, 9, result=None),
        ],
    ),
    (
        "an increment that was refused, and one that nobody saw",
        Counter(),
        [
            op("a", "increment", 0, 1, result=1),
            op("b", "increment", 2, 3, result="refused"),
            op("b", "increment", 2, inf),
            op("a", "increment", 4, 5, result=3),
        ],
    ),
    (
        "a barrier that trips, and one that breaks",
        CyclicBarrier(2),
        [
            op("a", "arrive", 0, 1, of="a", result=5),
            op("a", "pass", 1, 4, of=5, result="tripped"),
            op("b", "arrive", 2, 3, of="b", result=5),
            op("b", "arrive", 5, 6, of="b", result=8),
            op("b", "pass", 7, 8, of=8, result="broken"),
        ],
    ),
    (
        "a party that was killed when it may have been counted",
        CyclicBarrier(2),
        [
            op("a", "arrive", 0, inf, of="a"),
            op("b", "arrive", 2, 3, of="b", result=5),
            op("b", "pass", 3, 4, of=5, result="tripped"),
        ],
    ),
    (
        "a ballot that somebody still saw open while another saw its decision",
        DecideOnce(),
        [
            op("a", "read", 0, 3, result="open"),
            op("b", "read", 1, 2, result=("accepted", None)),
            op("c", "read", 4, 5, result=("accepted", None)),
        ],
    ),
    (
        "a cancellation that came too late, and one whose answer was lost",
        DecideOnce(),
        [
            op("a", "cancel", 0, inf, of="a"),
            op("b", "cancel", 1, 2, of="b", result=False),
            op("c", "read", 3, 4, result=("rejected", "a")),
        ],
    ),
    (
        "those who came at the same time, in any order",
        Line(),
        [op("a", "arrive", 0, 3, of=1), op("b", "arrive", 1, 2, of=2), op("b", "serve", 4, 5, of=2)],
    ),
    (
        "one who has left before the next one is served",
        Line(),
        [
            op("a", "arrive", 0, 1, of=1),
            op("b", "arrive", 2, 3, of=2),
            op("a", "leave", 4, inf, of=1),
            op("b", "serve", 2, 5, of=2),
        ],
    ),
]

PLANTED: list[tuple[str, Model, list[Operation]]] = [
    (
        "two hold it",
        Permits(),
        [op("a", "acquire", 0, 1, result=5), op("b", "acquire", 2, 3, result=9), op("a", "release", 4, 5, of=5)],
    ),
    (
        "a token that is lower than the one before",
        Permits(),
        [op("a", "acquire", 0, 1, result=5), op("a", "release", 2, 3, of=5), op("b", "acquire", 4, 5, result=4)],
    ),
    (
        "a third one with two permits",
        Permits(2),
        [op(str(n), "acquire", n, n + 0.5, result=n + 1) for n in range(3)],
    ),
    (
        "a release that comes after its process was killed cannot have come before that",
        Permits(),
        [op("a", "acquire", 0, 1, result=5), op("b", "acquire", 2, 3, result=9), op("a", "release", 4, inf, of=5)],
    ),
    (
        "a leader that is seen after the next one",
        Election(),
        [
            op("a", "campaign", 0, 1, result=7),
            op("a", "resign", 2, 3, of=7),
            op("b", "campaign", 4, 5, result=8),
            op("c", "leader", 6, 7, result=7),
        ],
    ),
    (
        "an increment that was lost",
        Counter(),
        [op("a", "increment", 0, 1, result=1), op("b", "increment", 2, 3, result=1)],
    ),
    (
        "a party that passes before all have arrived",
        CyclicBarrier(2),
        [
            op("a", "arrive", 0, 1, of="a", result=5),
            op("a", "pass", 1, 2, of=5, result="tripped"),
            op("b", "arrive", 3, 4, of="b", result=5),
        ],
    ),
    (
        "a party that is counted twice",
        CyclicBarrier(2),
        [
            op("a", "arrive", 0, 1, of="a", result=5),
            op("a", "arrive", 2, 3, of="a", result=5),
            op("a", "pass", 3, 4, of=5, result="tripped"),
        ],
    ),
    (
        "a generation that is broken for one and tripped for another",
        CyclicBarrier(2),
        [
            op("a", "arrive", 0, 1, of="a", result=5),
            op("b", "arrive", 0, 1, of="b", result=5),
            op("a", "pass", 2, 3, of=5, result="tripped"),
            op("b", "pass", 2, 3, of=5, result="broken"),
        ],
    ),
    (
        "a ballot that is decided twice",
        DecideOnce(),
        [op("a", "read", 0, 1, result=("accepted", None)), op("b", "read", 2, 3, result=("rejected", None))],
    ),
    (
        "a ballot that is open after its decision",
        DecideOnce(),
        [op("a", "read", 0, 1, result=("accepted", None)), op("b", "read", 2, 3, result="open")],
    ),
    (
        "a ballot that is open after a cancellation that came too late",
        DecideOnce(),
        [op("a", "cancel", 0, 1, of="a", result=False), op("b", "read", 2, 3, result="open")],
    ),
    (
        "a ballot that is cancelled twice",
        DecideOnce(),
        [op("a", "cancel", 0, 1, of="a", result=True), op("b", "cancel", 0, 1, of="b", result=True)],
    ),
    (
        "a ballot that was cancelled, and decided by votes",
        DecideOnce(),
        [op("a", "cancel", 0, 1, of="a", result=True), op("b", "read", 0, 1, result=("accepted", None))],
    ),
    (
        "a ballot that was cancelled for what nobody has cancelled it",
        DecideOnce(),
        [op("a", "cancel", 0, 1, of="a", result=False), op("b", "read", 0, 1, result=("rejected", "b"))],
    ),
    (
        "a ticket that was overtaken",
        Line(),
        [op("a", "arrive", 0, 1, of=1), op("b", "arrive", 2, 3, of=2), op("b", "serve", 4, 5, of=2)],
    ),
    (
        "a ticket that was overtaken before it was given up",
        Line(),
        [
            op("a", "arrive", 0, 1, of=1),
            op("b", "arrive", 2, 3, of=2),
            op("b", "serve", 4, 5, of=2),
            op("a", "leave", 6, inf, of=1),
        ],
    ),
    (
        "a ticket that is served twice",
        Line(),
        [op("a", "arrive", 0, 1, of=1), op("a", "serve", 2, 3, of=1), op("a", "serve", 2, 3, of=1)],
    ),
]


@pytest.mark.parametrize(("model", "history"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_what_can_be_put_in_order_is_no_violation(model: Model, history: list[Operation]) -> None:
    for order in itertools.islice(itertools.permutations(history), 50):
        assert find_violation(order, model) is None


@pytest.mark.parametrize(("model", "history"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED])
def test_a_planted_violation_is_found(model: Model, history: list[Operation]) -> None:
    for order in itertools.islice(itertools.permutations(history), 50):
        violation = find_violation(order, model)
        assert violation is not None
        assert violation.stuck
        assert "none of these can follow" in str(violation)


def test_names_are_checked_for_themselves() -> None:
    held = [Operation("a", name, "acquire", None, 5, 0, 1) for name in ("x", "y")]
    assert find_violation(held, Permits()) is None
    again = Operation("b", "y", "acquire", None, 6, 2, 3)
    violation = find_violation([*held, again], Permits())
    assert violation is not None
    assert (violation.name, violation.stuck) == ("y", (again,))


def _run(seed: int, *, forgets: bool) -> list[Operation]:
    """A history of four processes with one real mutex; one that ``forgets`` holds it as if it had never released it."""
    chance, now, fence, held_until = random.Random(seed), 0.0, 0, 0.0
    history = []
    for number in range(60):
        asked = now + chance.random()
        granted = max(asked, held_until)
        fence += chance.randint(1, 5)
        released = granted + chance.random()
        late = chance.random()
        history.append(Operation(f"p{number % 4}", "x", "acquire", None, fence, asked, granted + late * 0.1))
        if not (forgets and number == 30):
            history.append(Operation(f"p{number % 4}", "x", "release", fence, None, released, released + late))
        held_until, now = released + late, asked
    return history


@given(seed=st.integers(0, 10_000))
def test_long_histories_are_checked_promptly(seed: int) -> None:
    assert find_violation(_run(seed, forgets=False), Permits()) is None
    assert find_violation(_run(seed, forgets=True), Permits()) is not None
