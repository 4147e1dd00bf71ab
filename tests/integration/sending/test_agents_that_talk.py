"""Agents that ask each other, as the original's tests have them: delegation, deaths, volume, order, leftovers."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from orchestrator import AgentDown, Handled, SendFailed, UnknownAgent, UnknownMessage
from orchestrator.core.errors import DeliveryTimeout
from orchestrator.embedded import EmbeddedServer
from tests.apps import delegation_app as app
from tests.apps.calls_app import Slowly
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.started_script import LOADED, started_script
from tests.support.worker_process import ROOT, WorkerProcess

WAIT_S = 30

#: Of what a process of this size allocates.
_MOST_BYTES = 1_000_000


class Line(Cluster):
    """A worker's process for each agent."""

    def __init__(self, url: str, processes: dict[str, WorkerProcess]) -> None:
        super().__init__(url, processes["worker"], app.make(url))
        self.processes = processes

    def noted(self, count: int) -> list[str]:
        """What the supervisor has noted, once it is so much."""

        def found() -> list[str]:
            notes = [note.decode() for note in self.redis.lrange(app.NOTED, 0, -1)]
            return notes if len(notes) >= count else []

        return eventually(found, WAIT_S, self.log)

    def restart(self) -> None:
        """Start the worker again, and wait until it is known to host its agent."""
        self.processes["worker"].start()
        eventually(lambda: self.orchestrator.registry.hosted("worker", "worker"), WAIT_S, self.log)

    def runs(self, text: str) -> int:
        """How often an echo ran."""
        return int(self.redis.get(f"test:runs:{text}") or 0)


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        processes = {
            name: WorkerProcess("tests.apps.delegation_app", server.url, name=name, queues=name)
            for name in ("supervisor", "manager", "worker")
        }
        for process in processes.values():
            stack.enter_context(process)
        cluster = Line(server.url, processes)
        yield cluster
        cluster.close()


@pytest.fixture(autouse=True)
def _anew(line: Line) -> None:
    line.redis.delete(app.NOTED, app.SEQUENCE, "test:begun")


def test_a_supervisor_delegates_to_a_manager_and_that_to_a_worker(line: Line) -> None:
    """Who takes part is known to all of them, and the reply finds the one who has asked."""
    with line.orchestrator.conversation(["supervisor", "manager"], {"type": "collaborate"}):
        line.orchestrator.send(
            "supervisor",
            app.Task(
                id="whole",
                parts=(
                    "one",
                    "two",
                ),
            ),
        )
    members = "for supervisor manager"
    assert line.noted(1) == [f"manager whole: one {members}, two {members} in collaborate"]
    line.idle()
    assert line.orchestrator.dead_letters.count() == 0


def test_a_deadline_shrinks_over_three_hops(line: Line) -> None:
    left = line.orchestrator.call("supervisor", app.Step(number=1), timeout_s=9)
    assert len(left) == 3
    assert 9 > left[0] > left[1] > left[2] > 0


def test_a_dead_agent_is_an_error_and_the_others_go_on(line: Line) -> None:
    orchestrator, worker = line.orchestrator, line.processes["worker"]
    worker.kill()
    eventually(lambda: not orchestrator.registry.hosted("worker", "worker"), WAIT_S)
    with pytest.raises(AgentDown, match="'worker'"):
        orchestrator.call("worker", app.Echo(text="nobody"), timeout_s=20)
    assert orchestrator.call("manager", app.Task(id="whole", parts=("one",)), timeout_s=20) == "AgentDown"
    line.restart()
    # What it was at work on is no matter: it answers in its next life.
    assert orchestrator.call("worker", app.Echo(text="back"), timeout_s=20) == "back"
    assert orchestrator.call("manager", app.Task(id="whole", parts=("one",)), timeout_s=20) == "one for "


def test_an_agent_answers_before_and_after_it_is_stopped_and_started(line: Line) -> None:
    worker = line.processes["worker"]
    assert line.orchestrator.call("worker", app.Echo(text="before"), timeout_s=20) == "before"
    before = worker.pid
    worker.stop()
    line.restart()
    assert worker.pid != before
    assert line.orchestrator.call("worker", app.Echo(text="after"), timeout_s=20) == "after"


def test_a_time_out_is_the_callers_own(line: Line) -> None:
    with pytest.raises(DeliveryTimeout):
        line.orchestrator.call("worker", app.Echo(text="slow", how="holds"), timeout_s=0.2)
    line.redis.rpush("test:go:slow", 1, 1)
    assert line.orchestrator.call("worker", app.Echo(text="slow", how="holds"), timeout_s=20) == "slow"


def test_what_is_sent_is_not_waited_for(line: Line) -> None:
    delivery = line.orchestrator.send("worker", app.Echo(text="told", how="holds"))
    eventually(lambda: line.redis.llen("test:begun"), WAIT_S, line.log)
    assert delivery.outcome() is None
    line.redis.rpush("test:go:told", 1)
    assert delivery.wait(WAIT_S) == Handled("told")


def test_what_nobody_handles_is_the_callers_error(line: Line) -> None:
    for act in (line.orchestrator.call, line.orchestrator.ask):
        with pytest.raises(UnknownAgent, match="did you mean 'worker'"):
            act("wroker", app.Echo(text="x"), timeout_s=5)
        with pytest.raises(UnknownMessage, match="Echo"):
            act("worker", Slowly(key="x"), timeout_s=5)
    with pytest.raises(UnknownAgent):
        line.orchestrator.send("wroker", app.Echo(text="x"))


def test_a_hundred_requests_at_once_have_each_its_reply(line: Line) -> None:
    with ThreadPoolExecutor(20) as callers:
        results = callers.map(
            lambda n: line.orchestrator.call("worker", app.Echo(text=f"many-{n}"), timeout_s=60), range(100)
        )
        assert list(results) == [f"many-{n}" for n in range(100)]
    assert [line.runs(f"many-{n}") for n in range(100)] == [1] * 100


def test_the_same_request_of_ten_senders_runs_once(line: Line) -> None:
    def send(_number: int) -> object:
        return line.orchestrator.send("worker", app.Echo(text="same"), idempotency_key="same").wait(WAIT_S)

    with ThreadPoolExecutor(10) as senders:
        assert list(senders.map(send, range(10))) == [Handled("same")] * 10
    assert line.runs("same") == 1


def test_messages_of_one_sender_are_handled_in_their_order(line: Line) -> None:
    for number in range(1, 51):
        line.orchestrator.send("worker", app.Step(number=number))
    line.idle(WAIT_S)
    assert [int(number) for number in line.redis.lrange(app.SEQUENCE, 0, -1)] == list(range(1, 51))


_CALLER = """
import sys
sys.path.insert(0, {root!r})
from orchestrator import Send
from tests.apps import delegation_app as app
orchestrator = app.make({url!r})
{loaded}
orchestrator.call("worker", app.Echo(text="left", how="holds"), timeout_s={timeout_s}, fallback=[Send()])
"""


@pytest.mark.parametrize("timeout_s", [6, 60])
def test_a_caller_that_is_killed_leaves_its_request_and_no_fallback(line: Line, timeout_s: int) -> None:
    """The agent answers others once the request has ended: as it ends, or at its deadline."""
    accepted = line.row("worker").accepted
    script = _CALLER.format(root=str(ROOT), url=line.url, timeout_s=timeout_s, loaded=LOADED)
    with started_script(script) as caller:
        try:
            eventually(lambda: line.redis.llen("test:begun") == 1, WAIT_S, line.log)
        finally:
            caller.kill()
    if timeout_s == 60:
        line.redis.rpush("test:go:left", 1)
    assert line.orchestrator.call("worker", app.Echo(text="still alive"), timeout_s=20) == "still alive"
    line.idle()
    assert line.row("worker").accepted == accepted + 2, "the request, and that of another caller"
    line.redis.delete("test:go:left")


def test_calls_that_fail_leave_nothing_behind(line: Line) -> None:
    def fail(count: int) -> None:
        for _ in range(count):
            with pytest.raises(SendFailed, match="guaranteed"):
                line.orchestrator.call("worker", app.Echo(text="guaranteed", how="fails"), timeout_s=20)

    def names() -> set[bytes]:
        """Keys, but what tells the time, what was moved meanwhile, and durations: one a task, written at intervals."""
        passing = (b"orc:outcome:", b"orc:last-publish", b"orc:durations:")
        return {key for key in line.redis.keys("*") if not key.startswith(passing)}

    fail(10)
    line.idle()
    before = names()
    tracemalloc.start()
    try:
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        fail(100)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - size
    finally:
        tracemalloc.stop()
    assert grown < _MOST_BYTES
    line.idle()
    # A sweep or a chore may have left its mark.
    left = names() - before
    assert len(left) < 5, left
    # What became of each is kept for a while, and no longer.
    kept = [line.redis.pttl(key) for key in line.redis.keys("orc:outcome:*")]
    assert len(kept) >= 100
    assert min(kept) > 0
    assert line.orchestrator.dead_letters.count() == 0
