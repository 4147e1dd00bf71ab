"""A message that an error loses between its reservation and the pool's first step ends all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator import Dead, Handled
from tests.support.ends import Ends
from tests.support.eventually import eventually

#: More than a worker with one slot prefetches.
COUNT = 6

PLACES = [
    *(
        # Twelve seconds or more each.
        pytest.param(pool, place, marks=[pytest.mark.slow] if place == "reserved" and pool != "threads" else [])
        for pool in ("prefork", "threads", "solo", "gevent")
        for place in ("reserved", "pool")
    ),
    ("prefork", "pickled"),
]


@pytest.mark.parametrize("bare", [False, True], ids=["orchestrator", "transport"])
@pytest.mark.parametrize(("pool", "place"), PLACES)
def test_it_goes_back_once_and_is_then_a_dead_letter(
    make_ends: Callable[..., Ends], pool: str, place: str, bare: bool
) -> None:
    ends = make_ends(bare=bare)
    with ends.worker(pool, environment={"ENDS_LOSES": place}) as w:
        results = [ends.sig("note", f"n{n}").apply_async(task_id=f"lost{n}") for n in range(COUNT)]
        eventually(lambda: ends.ledger().dead == COUNT, timeout_s=60, describe=w.log)
        assert not ends.redis.exists("test:runs")
        for result in results:
            assert type(ends.state(result, "FAILURE", w)).__name__ == "SettlementFailed"
        ends.sig("note", "afterwards").apply_async()
        eventually(lambda: ends.ledger().handled == 1, describe=w.log)
        row = ends.ledger()
        assert (row.pending, row.lost, row.redelivered, row.duplicated) == (0, 0, COUNT, 0)
        assert w.stop() == 0


@pytest.mark.parametrize("place", ["reserved", "pool"])
def test_who_waits_for_such_a_message_is_told(make_ends: Callable[..., Ends], place: str) -> None:
    ends = make_ends(bare=False)
    orchestrator = ends.app.orchestrator
    with ends.worker("threads", environment={"ENDS_LOSES": place}):
        outcome = orchestrator.send(ends.sig("note", "n", task_id="lost")).wait(timeout_s=30)
        assert isinstance(outcome, Dead)
        assert outcome.reason == "unsettled"
        assert orchestrator.send(ends.sig("note", "n")).wait(timeout_s=30) == Handled("n", 1)


@pytest.mark.parametrize("bare", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["orchestrator", "transport"])
def test_what_a_prefork_pool_took_and_never_sends_to_a_process_ends(make_ends: Callable[..., Ends], bare: bool) -> None:
    ends = make_ends(bare=bare)
    # Its slot stays lost, each time.
    with ends.worker("prefork", concurrency=3, environment={"ENDS_LOSES": "sent"}) as w:
        lost = ends.sig("note", "n").apply_async(task_id="lost")
        assert type(ends.state(lost, "FAILURE", w)).__name__ == "SettlementFailed"
        ends.sig("note", "afterwards").apply_async()
        eventually(lambda: ends.ledger().handled == 1, describe=w.log)
        row = ends.ledger()
        assert (row.dead, row.pending, row.lost, row.redelivered) == (1, 0, 0, 1)
        assert w.stop() == 0
