"""What Celery raises to stop a worker: raised for a message, it fails the message, and the worker goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator import Constant, Dead, Handled, Retry
from tests.support.ends import Ends
from tests.support.eventually import eventually

POOLS = ["solo", "threads", "gevent", "prefork"]

#: More than a worker with one process prefetches.
COUNT = 6


def _goes_on(ends: Ends, log: Callable[[], str]) -> None:
    eventually(lambda: ends.ledger().pending == 0, timeout_s=30, describe=log)
    ends.sig("note", "afterwards").apply_async(ignore_result=True)
    eventually(lambda: ends.redis.hget("test:runs", "afterwards"), timeout_s=20, describe=log)


@pytest.mark.parametrize("bare", [False, True], ids=["orchestrator", "transport"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_task_does_not_stop_its_worker(make_ends: Callable[..., Ends], pool: str, bare: bool) -> None:
    """Regression: in solo it ended worker after worker, and was never blamed; with threads it ended as unsettled."""
    ends = make_ends(bare=bare)
    with ends.worker(pool) as w:
        results = [ends.sig("stops", f"s{n}").apply_async() for n in range(COUNT)]
        for result in results:
            error = ends.state(result, "FAILURE", w)
            assert type(error).__name__ == "HandlerFailed"
            assert str(error) == "WorkerShutdown: 0"
        _goes_on(ends, w.log)
        assert ends.redis.hgetall("test:runs") == {**{f"s{n}": "1" for n in range(COUNT)}, "afterwards": "1"}
        assert w.stop() == 0
    assert (ends.ledger().lost, ends.ledger().duplicated, ends.ledger().redelivered) == (0, 0, 0)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("receiver", ["task_prerun", "task_success", "task_postrun", "task_retry"])
def test_a_receiver_of_a_signal_does_not_stop_its_worker(
    make_ends: Callable[..., Ends], pool: str, receiver: str
) -> None:
    ends = make_ends()
    retry = Retry(max_retries=2, backoff=Constant(0.01))
    with ends.worker(pool, environment={"ENDS_STOPS_IN": receiver}) as w:
        outcome = ends.app.orchestrator.send(ends.sig("fails_once", "f"), retry=retry).wait(timeout_s=30)
        if receiver == "task_prerun":
            assert isinstance(outcome, Dead), w.log()
            assert (outcome.reason, outcome.error) == ("retries exhausted", "HandlerFailed: WorkerShutdown: 0")
        else:
            assert outcome == Handled("f", 2), w.log()
        _goes_on(ends, w.log)
        assert w.stop() == 0


@pytest.mark.parametrize("bare", [False, True], ids=["orchestrator", "transport"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_leaves_the_interpreter_is_poison(make_ends: Callable[..., Ends], pool: str, bare: bool) -> None:
    ends = make_ends(bare=bare)
    with ends.worker(pool) as w:
        ends.sig("interrupts", "i").apply_async()
        eventually(lambda: ends.ledger().dead == 1, timeout_s=30, describe=w.log)
        _goes_on(ends, w.log)
        assert ends.redis.hget("test:runs", "i") == "3"
        assert (ends.ledger().dead, ends.ledger().lost) == (1, 0)
        assert w.is_running
