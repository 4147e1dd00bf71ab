"""The budget of retries and hedges over several processes that call at once: a tenth of all calls, and ten more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack

from orchestrator.embedded import EmbeddedServer
from orchestrator.sending.calls.call_counts import CallCounts
from tests.apps import calls_app
from tests.support.cluster import Cluster
from tests.support.worker_process import ROOT, WorkerProcess

_CALLS = 40
_HOW = ("retry", "hedge", "retry", "hedge")

#: What a mailbox that was never called has, in retries or hedges.
_START = 10


def test_processes_that_call_at_once_share_one_budget() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        worker = stack.enter_context(
            WorkerProcess("tests.apps.calls_app", server.url, pool="threads", concurrency=8, queues="billing")
        )
        cluster = Cluster(server.url, worker, calls_app.make(server.url))
        stack.callback(cluster.close)
        callers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.budget_caller", server.url, str(_CALLS), how],
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for how in _HOW
        ]
        for caller in callers:
            stack.callback(caller.kill)
            assert caller.stdout is not None
            assert caller.stdout.readline() == "ready\n"
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        said = [caller.communicate(timeout=60)[0] for caller in callers]
        ended = [json.loads(line) for line in said]
        assert ended == [{"SendFailed" if how == "retry" else "handled": _CALLS} for how in _HOW]
        cluster.idle()
        (counts,) = [one for one in cluster.orchestrator.call_counts() if one.queue == "billing"]
        calls = _CALLS * len(_HOW)
        _check(counts, calls)
        # What was sent is counted elsewhere, too.
        assert cluster.row("billing").accepted == calls + counts.retried + counts.hedged


def _check(counts: CallCounts, calls: int) -> None:
    more = counts.retried + counts.hedged
    assert min(counts.retried, counts.hedged) > 0, "both were spent from it"
    assert more <= _START + calls // 10
    assert counts.over_budget > 0, "nobody wanted more than the budget"
    # Nothing is lost of it either: each call adds a tenth, each retry and hedge takes one.
    assert counts.budget == 100 * _START + 10 * calls - 100 * more
