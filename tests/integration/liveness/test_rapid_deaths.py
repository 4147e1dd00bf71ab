"""A worker that dies in the middle of many short messages: only the one that it was executing is blamed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.apps import rapid
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

MESSAGES, DEADLY = 600, 400


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_who_kills_among_many_is_blamed_each_time_and_nobody_else(pool: str, tmp_path: Path) -> None:
    began = tmp_path / "began"
    with EmbeddedServer() as server:
        orchestrator = rapid.make(server.url)
        steps = [rapid.Step(number=number, deadly=number == DEADLY) for number in range(MESSAGES)]
        orchestrator.send_many("runner", steps)
        environment = {"RAPID_BEGAN": str(began)}
        with WorkerProcess("tests.apps.rapid", server.url, pool=pool, queues="runner", environment=environment) as w:

            def is_idle() -> bool:
                if not w.is_running:
                    w.kill()
                    w.start(wait=False)
                return all(row.pending == 0 for row in orchestrator.ledger())

            eventually(is_idle, 60, w.log)
        times = Counter(map(int, began.read_text().split()))
        # Where a mark is lost, a death is nobody's, and there is one more; where an outcome is, a message runs twice.
        assert times == {number: 3 if number == DEADLY else 1 for number in range(MESSAGES)}
        (row,) = [row for row in orchestrator.ledger() if row.queue == "runner"]
        assert (row.handled, row.dead, row.lost, row.duplicated) == (MESSAGES - 1, 1, 0, 0)
        (letter,) = orchestrator.dead_letters.list()
        assert [death["reason"] for death in letter.deaths] == ["killed"] * 3
        orchestrator.app.close()
