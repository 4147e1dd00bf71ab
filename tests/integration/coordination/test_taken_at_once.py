"""Permits and resources are held as soon as they are asked for, with or without a block: eager and on Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import InvalidPolicy, LeaseTaken, Orchestrator, PoolEmpty
from tests.support.coordination_under_test import close, make

#: How the only permit of each kind is asked for, and the error while it is held.
ASK: dict[str, tuple[Callable[[Orchestrator], Any], type[Exception]]] = {
    "semaphore": (lambda orchestrator: orchestrator.semaphore("api", permits=1).acquire(), LeaseTaken),
    "pool": (lambda orchestrator: orchestrator.pool("gpu", ["gpu0"]).checkout(), PoolEmpty),
}

#: What is no block by itself, and what the error names.
NO_BLOCKS: dict[str, tuple[Callable[[Orchestrator], Any], str]] = {
    "semaphore": (
        lambda orchestrator: orchestrator.semaphore("s", permits=3),
        r"with orchestrator\.semaphore\('s', permits=3\)\.acquire\(",
    ),
    "pool": (lambda orchestrator: orchestrator.pool("p", ["a"]), r"\.checkout\("),
    "election": (lambda orchestrator: orchestrator.election("e"), r"\.campaign\("),
    "barrier": (lambda orchestrator: orchestrator.barrier("b", 2), r"\.arrive\(\)\.wait\("),
}


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    eager = request.param == "eager"
    made = make("redis://127.0.0.1:1/0" if eager else request.getfixturevalue("redis_url"), eager=eager)
    with made.monitors.session():
        yield made
    close(made)


@pytest.mark.parametrize("kind", ASK)
def test_what_is_asked_for_is_held_until_it_is_released(orchestrator: Orchestrator, kind: str) -> None:
    ask, taken = ASK[kind]
    held = ask(orchestrator)
    assert held.fence
    with pytest.raises(taken):
        ask(orchestrator)
    assert held.release()
    assert ask(orchestrator).fence > held.fence


@pytest.mark.parametrize("kind", ASK)
def test_a_block_takes_what_is_held_and_releases_it(orchestrator: Orchestrator, kind: str) -> None:
    ask, taken = ASK[kind]
    held = ask(orchestrator)
    with held as entered:
        assert entered is held
        entered.check()
        with pytest.raises(taken):
            ask(orchestrator)
    with ask(orchestrator) as again:
        assert again.fence > held.fence
    with pytest.raises(InvalidPolicy, match="once; make another"), again:
        pytest.fail("a block without a permit")


@pytest.mark.parametrize("kind", NO_BLOCKS)
def test_what_is_no_block_says_what_is_one(orchestrator: Orchestrator, kind: str) -> None:
    make_it, says = NO_BLOCKS[kind]
    with pytest.raises(InvalidPolicy, match=says), make_it(orchestrator):
        pytest.fail("a block without a permit")


def test_users_of_a_pool_may_name_its_resources_in_any_order(orchestrator: Orchestrator) -> None:
    with orchestrator.pool("gpu", ["b", "a"]).checkout() as one, orchestrator.pool("gpu", ["a", "b"]).checkout() as two:
        assert {one.resource, two.resource} == {"a", "b"}
        with pytest.raises(InvalidPolicy, match="with which pool 'gpu' is in use"):
            orchestrator.pool("gpu", ["a", "c"]).checkout()
