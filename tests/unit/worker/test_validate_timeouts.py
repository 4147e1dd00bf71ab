"""Times that cannot fit together are refused wherever they come together, with their names and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.concurrency.prefork import TaskPool as PreforkPool

from orchestrator import Agent, Message, Orchestrator, handles, load_settings
from orchestrator.core.errors import InvalidSettings
from orchestrator.worker.bootsteps.start import refuse_start
from orchestrator.worker.bootsteps.validate_timeouts import useless_limits
from tests.support.workers_for_steps import Worker

AWAY = "redis://127.0.0.1:1/0"


class Job(Message):
    pass


class Hasty(Agent):
    name = "hasty"
    deadline_s = 5

    @handles(Job)
    def job(self, message: Job) -> None:
        pass


class Torn(Agent):
    name = "torn"
    deadline_s = 5

    @handles(Job, timeout_s=6)
    def job(self, message: Job) -> None:
        pass


def nothing() -> None:
    pass


def orchestrated(conf: dict[str, Any] | None = None, **settings: Any) -> Orchestrator:
    app = Celery("fitting", broker=AWAY, set_as_current=False)
    app.conf.update(conf or {})
    return Orchestrator(app, load_settings(broker_url=AWAY, **settings))


def refuse(orchestrator: Orchestrator, worker: Worker) -> None:
    refuse_start(orchestrator.runtime, worker)


def test_one_key_with_a_timeout_above_its_deadline() -> None:
    with pytest.raises(InvalidSettings, match=r"timeouts\['a.B'\]=30; allowed: at most deadlines\['a.B'\]=10"):
        load_settings(timeouts={"a.B": 30, "x": 5}, deadlines={"a.B": 10, "x": 5})


def test_an_agent_whose_declaration_cannot_work_is_not_hosted() -> None:
    with pytest.raises(
        InvalidSettings, match=r"torn.Job: timeout_s=6 \(said by handler\); allowed: at most deadline_s=5"
    ):
        orchestrated().host(Torn)


def test_an_agent_whom_the_settings_contradict_is_not_hosted() -> None:
    orchestrated().host(Hasty)
    with pytest.raises(InvalidSettings, match=r"hasty.Job: timeout_s=9 \(said by settings\); .* \(said by agent\)"):
        orchestrated(timeouts={"*": 9}).host(Hasty)


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        (
            {"task_soft_time_limit": 9, "task_time_limit": 8},
            "task_soft_time_limit=9; allowed: at most task_time",
        ),
        ({"task_time_limit": -1}, "task_time_limit=-1; allowed: seconds above 0"),
        ({"broker_transport_options": {"lease_s": 0.3}}, "allowed: heartbeat_s < heartbeat_timeout_s < lease_s"),
        ({"broker_transport_options": {"heartbeat_s": 0}}, "heartbeat_s=0: allowed: a number above 0"),
    ],
)
def test_an_app_whose_configuration_cannot_work_is_refused_by_workers_and_senders(
    conf: dict[str, Any], said: str
) -> None:
    orchestrator = orchestrated(conf)
    task = orchestrator.app.task(name="plain.a", shared=False)(nothing)
    for use in (lambda: refuse(orchestrator, Worker(orchestrator.app)), lambda: orchestrator.send(task.s())):
        with pytest.raises(InvalidSettings, match=said):
            use()


def test_what_celery_takes_for_no_limit_is_none() -> None:
    orchestrator = orchestrated({"task_soft_time_limit": 9, "task_time_limit": 0})
    refuse(orchestrator, Worker(orchestrator.app))


def test_a_soft_limit_that_is_the_hard_one_is_warned_of() -> None:
    """Regression: Celery allows it, and the worker did not start."""
    orchestrator = orchestrated({"task_soft_time_limit": 9, "task_time_limit": 9})
    for name in "ab":
        orchestrator.app.task(name=f"plain.{name}", shared=False)(nothing)
    orchestrator.app.task(name="plain.c", shared=False, soft_time_limit=5, time_limit=6)(nothing)
    worker = Worker(orchestrator.app, soft=9, hard=9)
    refuse(orchestrator, worker)
    assert useless_limits(worker) == [
        "plain.a, plain.b: soft_time_limit=9 equals time_limit, which may kill before it interrupts"
    ]


def test_a_task_that_celery_refuses_to_send_keeps_no_worker_from_starting() -> None:
    orchestrator = orchestrated()
    orchestrator.app.task(name="plain.d", shared=False, soft_time_limit=9, time_limit=8)(nothing)
    worker = Worker(orchestrator.app)
    refuse(orchestrator, worker)
    assert useless_limits(worker) == ["plain.d: soft_time_limit=9 is above time_limit=8, so Celery refuses to send it"]


def test_a_worker_is_refused_for_limits_given_at_its_command_line() -> None:
    orchestrator = orchestrated()
    refuse(orchestrator, Worker(orchestrator.app, soft=5, hard=6))
    with pytest.raises(InvalidSettings, match="soft_time_limit of the worker=7; allowed: at most time_limit of the w"):
        refuse(orchestrator, Worker(orchestrator.app, soft=7, hard=6))


def test_a_worker_is_refused_for_a_plain_tasks_times() -> None:
    orchestrator = orchestrated(timeouts={"plain.*": 7}, deadlines={"plain.b": 3})
    for name in "abc":
        orchestrator.app.task(name=f"plain.{name}", shared=False)(nothing)
    with pytest.raises(InvalidSettings) as refused:
        refuse(orchestrator, Worker(orchestrator.app))
    (of_b,) = refused.value.problems
    assert of_b.startswith("plain.b: timeout_s=7 (said by settings); allowed: at most deadline_s=3 (said by settings)")


def test_a_timeout_that_celerys_hard_limit_comes_before_is_refused_where_there_is_one() -> None:
    orchestrator = orchestrated({"task_time_limit": 10}, timeouts={"*": 4}, timeout_factor=3)
    orchestrator.app.task(name="plain.a", shared=False)(nothing)
    orchestrator.app.finalize()
    refuse(orchestrator, Worker(orchestrator.app))
    with pytest.raises(
        InvalidSettings, match=r"plain.a.*: timeout_s=12 \(said by settings\); allowed: below time_limit"
    ):
        refuse(orchestrator, Worker(orchestrator.app, PreforkPool))
