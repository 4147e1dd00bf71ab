"""An agent's message lands in its mailbox and under its policy, by whatever way of Celery's it is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, group
from celery.beat import ScheduleEntry, Scheduler, SchedulingError
from celery.schedules import schedule
from pydantic import SecretStr
from redis import Redis

from orchestrator import Agent, Breaker, Mailbox, Message, Orchestrator, Retry, handles
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import AgentDown, CircuitOpen, MailboxFull
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from tests.support.agents_cluster import hosted
from tests.support.cluster import Cluster
from tests.support.eventually import eventually

KEYS = Keys()


class Charge(Message):
    order: str = ""
    card: SecretStr = SecretStr("")


class Billing(Agent):
    name = "billing.eu"
    retry = Retry(max_retries=7)
    expires_s = 3600.0
    mailbox = Mailbox(limit=10)
    breaker = Breaker(failures=1)

    @handles(Charge, priority=3)
    def charge(self, message: Charge) -> None:
        """Never run here."""


class Proud(Agent):
    name = "proud"
    when_down = "error"

    @handles(Charge)
    def charge(self, message: Charge) -> None:
        """Never run here."""


def _plain() -> None:
    """Never run here."""


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    app = Celery("doors", broker=redis_url, set_as_current=False)
    app.conf.task_routes = {"*": {"queue": "by-route"}}
    orchestrator = Orchestrator(app)
    orchestrator.host(Billing, Proud)
    app.task(_plain, shared=False, name="plain", ignore_result=True)
    yield orchestrator
    app.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as client:
        yield client


TASK = "billing.eu.Charge"


def by_beat(app: Celery, task: str) -> Any:
    scheduler = Scheduler(app, lazy=True)
    return scheduler.apply_async(ScheduleEntry(name="charge", task=task, args=[{}], schedule=schedule(1), app=app))


WAYS: dict[str, Callable[[Celery], Any]] = {
    "send_task": lambda app: app.send_task(TASK, args=[{}]),
    "delay": lambda app: app.tasks[TASK].delay({}),
    "apply_async": lambda app: app.tasks[TASK].apply_async(({},)),
    "signature": lambda app: app.signature(TASK, ({},)).apply_async(),
    "chain": lambda app: chain(app.signature(TASK, ({},)), app.signature("plain")).apply_async(),
    "group": lambda app: group([app.signature(TASK, ({},))], app=app).apply_async(),
    "beat": lambda app: by_beat(app, TASK),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_lands_in_its_mailbox_under_its_policy(orchestrator: Orchestrator, redis: Any, way: str) -> None:
    """Regression: it went into Celery's default queue, past mailbox, bound, breaker and policy."""
    WAYS[way](orchestrator.app)
    ((_, fields),) = redis.xrange(KEYS.stream("billing.eu", "3"))
    headers = json.loads(fields[b"m"])["headers"]
    supervision = Supervision.from_wire(headers["orc"])
    assert (supervision.agent, supervision.message) == ("billing.eu", "Charge")
    assert (supervision.retry.max_retries, supervision.hide) == (7, ("card",))
    assert headers["expires"] is not None
    assert redis.xlen(KEYS.stream("celery", "0")) == redis.xlen(KEYS.stream("by-route", "0")) == 0
    until_ms = redis.time()[0] * 1000 + 60_000
    redis.hset(KEYS.flow("billing.eu"), mapping={"phase": "open", "until_ms": until_ms, "open_ms": 120_000})
    with pytest.raises(SchedulingError if way == "beat" else CircuitOpen, match="circuit breaker"):
        WAYS[way](orchestrator.app)


def test_so_does_one_that_celery_call_sends(redis_url: str) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.apps.agents_app",
        "call",
        "worker.Add",
        "-a",
        '[{"a":1,"b":2}]',
    ]
    with EmbeddedServer() as server:
        environment = {"ORCHESTRATOR_BROKER_URL": server.url, "PATH": "", "C_FORCE_ROOT": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
        with Redis.from_url(server.url) as redis:
            assert redis.xlen(KEYS.stream("worker", "0")) == 1


def test_its_bound_holds(orchestrator: Orchestrator) -> None:
    orchestrator.send_many("billing.eu", [Charge()] * 10)
    with pytest.raises(MailboxFull):
        orchestrator.app.send_task(TASK, args=[{}])


def test_an_agent_whose_mail_does_not_wait_is_down(orchestrator: Orchestrator) -> None:
    with pytest.raises(AgentDown):
        orchestrator.app.send_task("proud.Charge", args=[{}])


def test_who_says_a_queue_for_one_send_is_heeded(orchestrator: Orchestrator, redis: Any) -> None:
    orchestrator.app.send_task(TASK, args=[{}], queue="aside", priority=9)
    ((_, fields),) = redis.xrange(KEYS.stream("aside", "9"))
    assert json.loads(fields[b"m"])["headers"]["orc"]["agent"] == "billing.eu"


def test_other_tasks_go_where_celery_sends_them(orchestrator: Orchestrator, redis: Any) -> None:
    orchestrator.app.send_task("plain")
    orchestrator.app.send_task("billing.eu.on_something")
    assert redis.xlen(KEYS.stream("by-route", "0")) == 2


# -- on real workers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hosted("threads") as cluster:
        yield cluster


def test_a_sender_that_only_the_registry_tells_of_the_agent_sends_it_there(cluster: Cluster) -> None:
    app = Celery("elsewhere", broker=cluster.url, set_as_current=False)
    Orchestrator(app)
    before = cluster.row("worker").accepted
    app.send_task("worker.Add", args=[{"a": 1, "b": 2}])
    cluster.idle()
    assert cluster.row("worker").accepted == before + 1
    app.close()


@pytest.mark.parametrize("queue", ["celery", "worker"])
def test_what_a_foreign_app_sends_is_retried_and_dead_lettered_as_the_agents_policy_says(
    cluster: Cluster, queue: str
) -> None:
    """Regression: it was tried once."""
    app = Celery("foreign", broker=cluster.url, set_as_current=False)
    app.conf.broker_transport = "orchestrator.transport:Transport"
    letter = cluster.letter_after(lambda: app.send_task("worker.Flaky", args=[{"failures": 99}], queue=queue), 20)
    assert (letter.agent, letter.attempts) == ("worker", 3)
    eventually(lambda: cluster.row(queue).pending == 0)
    app.close()
