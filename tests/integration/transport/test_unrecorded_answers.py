"""Where no answer can be recorded, because something else has written at its key, what needs no record goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from orchestrator import Orchestrator, Workflow
from orchestrator.transport.redis.lost_answers import PERIOD_S
from orchestrator.workflows.records import ControlResult
from orchestrator.workflows.run import Run
from tests.support.eventually import eventually
from tests.support.junk_keys import other_type_at
from tests.support.schedules_under_test import Reconcile, Schedules, scheduling_app


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """An app with an agent in an empty Redis, without a worker."""
    made = scheduling_app(redis_url)
    yield made
    made.app.close()


@pytest.fixture
def break_records(orchestrator: Orchestrator) -> Iterator[Callable[[], None]]:
    """Writes something else at the keys of this period and the next."""
    store = orchestrator.runtime.store
    with ExitStack() as stack:

        def make() -> None:
            period = int(time.time() // PERIOD_S)
            for one in (period, period + 1):
                stack.enter_context(other_type_at(store.client, store.keys.last_publishes(one)))

        yield make


def _add(orchestrator: Orchestrator, **options: Any) -> Any:
    return orchestrator.schedules.add("nightly", "ledgers", Reconcile(), every_s=3600, **options)


def _paused(orchestrator: Orchestrator) -> None:
    _add(orchestrator).pause()


#: By name: what is there before, what changes it, and the answer.
CHANGES: dict[str, tuple[Callable[[Orchestrator], Any], Callable[[Orchestrator], Any], Any]] = {
    "pause": (_add, lambda o: o.schedules["nightly"].pause(), True),
    "resume": (_paused, lambda o: o.schedules["nightly"].resume(), True),
    "remove": (_add, lambda o: o.schedules["nightly"].remove(), True),
    "add": (lambda o: None, lambda o: _add(o).id, "nightly"),
    "replace": (_add, lambda o: _add(o, if_exists="replace", jitter_s=1).id, "nightly"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_schedule_is_changed(orchestrator: Orchestrator, break_records: Callable[[], None], name: str) -> None:
    prepare, change, answer = CHANGES[name]
    prepare(orchestrator)
    break_records()
    assert change(orchestrator) == answer


def test_a_broken_schedule_is_set_aside_and_the_others_fire(
    orchestrator: Orchestrator, break_records: Callable[[], None]
) -> None:
    schedules = Schedules(orchestrator)
    schedules.declare("bad", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.set(schedules.keys.schedule("bad"), "x")
    break_records()
    schedules.scheduler().tick()
    assert "WRONGTYPE" in orchestrator.schedules["bad"].info().broken
    assert not schedules.redis.zscore(schedules.keys.schedules_due, "bad")
    assert len(schedules.messages()) == 1


def _waits(orchestrator: Orchestrator) -> Run:
    flow = Workflow("waits")
    flow.wait("wait", event="approved")
    return orchestrator.workflows.start(flow)


def _paused_run(orchestrator: Orchestrator) -> Run:
    run = _waits(orchestrator)
    assert run.pause() is ControlResult.DONE
    return run


def _cancelled(orchestrator: Orchestrator) -> Run:
    run = _waits(orchestrator)
    assert run.cancel() is ControlResult.DONE
    eventually(lambda: run.status().state == "cancelled")
    return run


COMMANDS: dict[str, tuple[Callable[[Orchestrator], Run], Callable[[Run], Any]]] = {
    "pause": (_waits, lambda run: run.pause()),
    "resume": (_paused_run, lambda run: run.resume()),
    "cancel": (_waits, lambda run: run.cancel()),
    "post": (_waits, lambda run: run.post("approved")),
    "delete": (_cancelled, lambda run: run.delete()),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_is_controlled(orchestrator: Orchestrator, break_records: Callable[[], None], name: str) -> None:
    make, act = COMMANDS[name]
    run = make(orchestrator)
    break_records()
    assert act(run) is ControlResult.DONE


def test_a_monitor_is_ended(orchestrator: Orchestrator, break_records: Callable[[], None]) -> None:
    with orchestrator.monitors.session() as session:
        ref = session.monitor(session.id)
        break_records()
        assert orchestrator.monitors.demonitor(ref)
        assert not orchestrator.monitors.demonitor(ref)
