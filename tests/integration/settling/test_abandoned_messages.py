"""A worker compares what it holds with what its pool runs: no message stays with it for which no code runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator import Dead
from tests.support.ends import Ends
from tests.support.eventually import eventually

#: More than a worker with one slot prefetches.
COUNT = 6

#: Threads end without a word at messages whose id begins with ``lost``.
SILENT = {"ENDS_LOSES": "silent"}


@pytest.mark.parametrize("bare", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["orchestrator", "transport"])
def test_what_ends_without_a_word_goes_back_once_and_is_then_a_dead_letter(
    make_ends: Callable[..., Ends], bare: bool
) -> None:
    ends = make_ends(bare=bare)
    with ends.worker("threads", environment=SILENT) as w:
        results = [ends.sig("note", "n").apply_async(task_id=f"lost{n}") for n in range(COUNT)]
        eventually(lambda: ends.ledger().dead == COUNT, timeout_s=60, describe=w.log)
        assert ends.redis.hgetall("test:runs") == {"silent": str(2 * COUNT)}
        for result in results:
            assert type(ends.state(result, "FAILURE", w)).__name__ == "SettlementFailed"
        ends.sig("note", "afterwards").apply_async()
        eventually(lambda: ends.ledger().handled == 1, describe=w.log)
        row = ends.ledger()
        assert (row.pending, row.lost, row.redelivered, row.duplicated) == (0, 0, COUNT, 0)
        assert w.log().count("settled it; it is requeued") == COUNT
        assert w.log().count("settled it; it becomes a dead letter") == COUNT


def test_who_waits_for_such_a_message_is_told(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends(bare=False)
    with ends.worker("threads", environment=SILENT):
        outcome = ends.app.orchestrator.send(ends.sig("note", "l", task_id="lost")).wait(timeout_s=30)
        assert isinstance(outcome, Dead)
        assert outcome.reason == "unsettled"


@pytest.mark.parametrize("bare", [False, True], ids=["orchestrator", "transport"])
def test_a_task_runs_although_its_start_could_not_be_noted(make_ends: Callable[..., Ends], bare: bool) -> None:
    ends = make_ends(bare=bare)
    with ends.worker("threads") as w:
        ends.sig("hold", "h").apply_async()
        eventually(lambda: ends.redis.hget("test:runs", "h"), describe=w.log)
        waiting = ends.sig("note", "n").apply_async()
        eventually(lambda: f"[{waiting.id}] received" in w.log(), describe=w.log)
        # A pool of threads cannot terminate what it runs, and Celery raises that where the task begins.
        ends.app.control.revoke(waiting.id, terminate=True)
        eventually(lambda: "Terminating" in w.log(), describe=w.log)
        ends.redis.rpush("test:go:h", "1")
        eventually(lambda: ends.ledger().pending == 0, timeout_s=30, describe=w.log)
        ends.sig("note", "afterwards").apply_async()
        eventually(lambda: ends.redis.hget("test:runs", "afterwards"), describe=w.log)
