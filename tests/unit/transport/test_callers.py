"""The names of threads by which Redis knows whose last call it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.lost_answers import Callers
from tests.support.forks import in_fork


def test_threads_have_different_names_that_stay() -> None:
    callers, all_there = Callers(), Barrier(4)

    def name() -> str:
        all_there.wait(10)
        first = callers.here()
        assert callers.here() == first
        return first

    with ThreadPoolExecutor(4) as threads:
        names = [done.result(10) for done in [threads.submit(name) for _ in range(4)]]
    assert len(set(names)) == 4
    assert {len(one) for one in names} == {16}


def test_threads_of_different_processes_have_different_names() -> None:
    callers = Callers()
    own = callers.here()
    assert in_fork(callers.here) not in (own, "")
    assert callers.here() == own
    assert Callers().here() != callers.here()


def test_a_thread_that_gives_up_its_name_has_another_one_from_then_on() -> None:
    callers = Callers()
    first = callers.here()
    callers.give_up_name()
    second = callers.here()
    assert len(second) == 16
    assert callers.here() == second != first
    with ThreadPoolExecutor(1) as another:
        assert another.submit(callers.here).result(10) not in (first, second)


def test_a_call_begins_with_the_name_of_its_caller_and_is_like_no_other() -> None:
    callers = Callers()
    first, second = callers.attempt(Keys()), callers.attempt(Keys())
    assert first.token[:16] == second.token[:16] == callers.here()
    assert first.token != second.token
