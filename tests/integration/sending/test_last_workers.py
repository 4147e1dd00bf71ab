"""A caller without a session whose callee was the last worker: the caller itself finds the death."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import psutil
import pytest

from orchestrator.core.keys import GROUP
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.options import Options
from tests.apps import calls_app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.started_script import LOADED, started_script
from tests.support.worker_process import ROOT, WorkerProcess

#: A plain script. It prints what has come of its wait.
CALLER = """
import sys
sys.path.insert(0, {root!r})
from orchestrator import OrchestratorError, Retry
from tests.apps import calls_app
from tests.apps.calls_app import Quote
orchestrator = calls_app.make({url!r})
quote = Quote(number=3, how="holds")
{loaded}
try:
    print({wait})
except OrchestratorError as error:
    print(type(error).__name__, error)
"""

CALL = 'orchestrator.call("billing", quote, timeout_s=60, on_death="fail")'

#: Other ways to wait for the outcome of a request that must not run twice.
WAYS = {
    "call": CALL,
    "call that retries": CALL.replace(")", ', retry=Retry(never=("WorkerLost",)))'),
    "ask": CALL.replace("call(", "ask(") + ".reply()",
}


@pytest.fixture
def last() -> Iterator[Cluster]:
    """One worker, no monitor manager, no session."""
    with (
        EmbeddedServer() as server,
        WorkerProcess("tests.apps.calls_app", server.url, name="last", queues="billing") as worker,
    ):
        cluster = Cluster(server.url, worker, calls_app.make(server.url))
        yield cluster
        cluster.close()


@contextmanager
def script(last: Cluster, wait: str) -> Iterator[subprocess.Popen[str]]:
    """The script, once the worker has begun what it waits for."""
    with started_script(CALLER.format(root=str(ROOT), url=last.url, wait=wait, loaded=LOADED)) as process:
        try:
            eventually(lambda: last.redis.llen("test:begun"), 20, last.log)
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], timeout_s: float) -> str:
    """What the script prints before it ends."""
    return process.communicate(timeout=timeout_s)[0]


def existing(last: Cluster) -> list[str]:
    """The streams of the mailbox."""
    return [stream for stream in last.orchestrator.runtime.store.streams("billing") if last.redis.exists(stream)]


def deaths(last: Cluster) -> list[bytes]:
    return [fields[b"reason"] for _, fields in last.redis.xrange(last.keys.deaths)]


@pytest.mark.parametrize("wait", list(WAYS.values()), ids=list(WAYS))
def test_the_death_of_the_last_worker_is_found_by_who_waits_for_it(last: Cluster, wait: str) -> None:
    with script(last, wait) as process:
        last.worker.kill()
        killed_at = monotonic()
        error = said(process, 30)
    assert "SendFailed" in error
    assert "its worker died while it had it, and on_death is fail" in error
    assert monotonic() - killed_at < 10
    assert deaths(last) == [b"killed"]
    assert last.orchestrator.dead_letters.count() == 0


def test_a_last_worker_whose_heart_was_killed_too_is_found_dead_when_its_lease_has_run_out(last: Cluster) -> None:
    hearts = psutil.Process(last.worker.pid).children()
    with script(last, CALL) as process:
        for heart in hearts:
            heart.kill()
        last.worker.kill()
        killed_at = monotonic()
        error = said(process, 30)
    assert "SendFailed" in error
    assert monotonic() - killed_at < Options().lease_s + 3
    assert deaths(last)[0] in (b"killed", b"lost")


def test_what_may_run_again_is_requeued_by_who_waits_for_it_and_run_by_a_later_worker(last: Cluster) -> None:
    with script(last, 'orchestrator.send("billing", quote).wait(timeout_s=4)') as process:
        last.worker.kill()
        assert "DeliveryTimeout" in said(process, 30)
    assert deaths(last) == [b"killed"]
    # It is back in its mailbox before any other worker has come.
    assert last.row("billing").pending == 1
    assert not any(last.redis.xpending(stream, GROUP)["pending"] for stream in existing(last))
    last.redis.rpush("test:go:3", 1)
    last.worker.start()
    last.idle()
    assert last.row("billing").handled == 1
    assert last.redis.llen("test:begun") == 2


def test_a_call_that_may_run_again_is_answered_by_a_worker_that_starts_later(last: Cluster) -> None:
    with script(last, CALL.replace('"fail"', '"again"')) as process:
        last.worker.kill()
        eventually(lambda: deaths(last) == [b"killed"])
        last.redis.rpush("test:go:3", 1)
        last.worker.start()
        assert said(process, 30).strip() == "6"
