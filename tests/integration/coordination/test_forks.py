"""A forked child is no owner: it acts neither as its parent's session nor as the attempt that its parent runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator import Handled, Orchestrator
from orchestrator.coordination.late_releases import LateReleases
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from orchestrator.monitors.redis_session import RedisSession
from tests.apps.leases_app import Fork
from tests.support.coordination_under_test import close, make
from tests.support.eventually import eventually
from tests.support.forks import in_fork
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

APP = "tests.apps.leases_app"

#: What a refusal says.
FORKED = "process was forked"
REMEDY = "`with orchestrator.monitors.session():` in the forked process"


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url)
    yield made
    close(made)


def test_a_forked_child_runs_no_release_that_its_parent_repeats() -> None:
    """Regression: both emitted that the permit has ended, as the second got the answer of the first."""
    away = threading.Event()
    away.set()
    runs: list[Any] = []

    def run(call: Any) -> bool:
        if away.is_set():
            raise BrokerUnavailable("redis://", RedisConnectionError("away"))
        runs.append(call)
        return True

    late = LateReleases(run)
    late.add(("script", [], ["root", "lease", "inherited"]))

    def release_in_child() -> list[Any]:
        away.clear()
        late.run_now(lambda call: True)
        late.add(("script", [], ["root", "lease", "own"]))
        eventually(lambda: not late._late)
        return [call[2][2] for call in runs]

    assert in_fork(release_in_child) == "['own']"
    away.clear()
    late._pause.set()
    eventually(lambda: not late._late)
    assert len(runs) == 1


def test_an_inherited_session_owns_nothing_in_a_forked_child(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session() as session, orchestrator.lease("mine") as lease:
        arrival = orchestrator.barrier("both", parties=2).arrive("one")
        leadership = orchestrator.election("leader").campaign()
        for act in (
            lambda: orchestrator.lease("other").acquire(),
            lambda: orchestrator.election("other").campaign(),
            lambda: orchestrator.pool("gpu", ["gpu0"]).check_in("gpu0"),
            lambda: orchestrator.barrier("both", parties=2).arrive("two"),
            lambda: orchestrator.monitors.monitor("nobody"),
            lambda: session.monitor("nobody"),
            lambda: session.next_down(0),
            lambda: arrival.wait(0),
            lease.check,
            leadership.check,
        ):
            refusal = in_fork(act)
            assert refusal.startswith("NoOwner"), refusal
            assert FORKED in refusal
            assert REMEDY in refusal
        assert [in_fork(lease.release), in_fork(leadership.release), in_fork(leadership.resign)] == ["False"] * 3
        assert in_fork(session.close) == "None"
        lease.check()
        leadership.check()
        assert session.next_down(0) is None


def test_a_child_that_leaves_inherited_blocks_ends_nothing_of_its_parent(orchestrator: Orchestrator) -> None:
    child = -1
    try:
        with (
            orchestrator.monitors.session() as session,
            orchestrator.monitors.monitored(session.id) as ref,
            orchestrator.lease("mine") as lease,
            orchestrator.election("leader").campaign() as leadership,
        ):
            if not (child := os.fork()):
                raise SystemExit
            os.waitpid(child, 0)
            lease.check()
            leadership.check()
            assert [entry.ref for entry in orchestrator.monitors.list(owner=session.id)] == [ref]
            assert orchestrator.registry.deaths() == []
    except SystemExit:
        assert child == 0
    finally:
        if child == 0:
            os._exit(0)


def test_a_session_that_a_child_opens_is_its_own_and_ends_with_it(orchestrator: Orchestrator) -> None:
    def hold() -> str:
        own = orchestrator.monitors.session()
        own.__enter__()
        orchestrator.lease("mine").acquire()
        return own.id

    with orchestrator.monitors.session() as session:
        # Its child ends as a killed one does: nothing is closed.
        others = in_fork(hold)
        assert others.startswith("session@")
        assert others != session.id
        with orchestrator.lease("mine", wait_s=30) as lease:
            assert lease.owner == session.id
    assert (others, "killed") in [(death.incarnation, death.reason) for death in orchestrator.registry.deaths()]


def test_a_session_whose_process_is_killed_before_its_first_heartbeat_is_found_dead_at_once(
    orchestrator: Orchestrator,
) -> None:
    """Regression: nothing named its connection yet, so it was found when its lease ran out, with the reason "lost"."""

    def hold() -> str:
        # Killed before its thread ran.
        with patch.object(RedisSession, "_live", lambda _self: None):
            own = orchestrator.monitors.session().__enter__()
            orchestrator.lease("mine").acquire()
        return own.id

    with orchestrator.monitors.session():
        others = in_fork(hold)
        with orchestrator.lease("mine", wait_s=30):
            pass
    assert (others, "killed") in [(death.incarnation, death.reason) for death in orchestrator.registry.deaths()]


def test_a_session_whose_first_heartbeat_is_lost_is_open(orchestrator: Orchestrator) -> None:
    """Regression: it was refused, and the lease that it had taken out was reported as a death when it ran out."""
    beat, lost = RedisSession._beat, [ConnectionError("cut")]

    def beat_or_lose(session: RedisSession) -> Any:
        if lost:
            raise lost.pop()
        return beat(session)

    with patch.object(RedisSession, "_beat", beat_or_lose), orchestrator.monitors.session() as session:
        client: Any = orchestrator.runtime.store.client
        record = orchestrator.runtime.store.keys.incarnation(session.id)
        eventually(lambda: client.hexists(record, "client"))
    assert {death.reason for death in orchestrator.registry.deaths() if death.incarnation == session.id} == {"drained"}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_child_that_a_handler_forks_is_not_its_attempt(
    server: EmbeddedServer, sender: Orchestrator, pool: str
) -> None:
    with WorkerProcess(APP, server.url, pool=pool, concurrency=2) as worker:
        outcome: Any = sender.send("holder", Fork(name=f"forked-{pool}"), track=True).wait(30)
        assert isinstance(outcome, Handled), worker.log()
        takes, checks, *rest = outcome.result
    for refusal in (takes, checks):
        assert refusal.startswith("NoOwner")
        assert FORKED in refusal
    assert rest == ["False", "None", "held"]
