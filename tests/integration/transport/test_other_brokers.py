"""Brokers that this library does not supervise, and URLs that nobody can use."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any, ClassVar

import pytest
from celery import Celery
from celery.beat import Scheduler
from celery.contrib.testing.worker import start_worker

from orchestrator import Agent, Context, Message, NotSupervised, Orchestrator, handles
from tests.support.command_line import celery

APP = "tests.apps.late_settings"
AS_ROOT = {"C_FORCE_ROOT": "1", "PYTHONWARNINGS": "ignore"}


class Charge(Message):
    """A message."""

    cents: int


class Billing(Agent):
    """An agent."""

    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> None:
        """Do nothing."""


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """A worker in this process sets the root logger's level and handlers, for all tests after it."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_test_worker_on_memory_starts_works_and_stops(pool: str) -> None:
    """Regression: it hung, for its consumer had ended with NotSupervised."""
    app = Celery("memory", broker="memory://", backend="cache+memory://", set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Billing)

    @app.task(name="memory.add", shared=False)
    def add(one: int, other: int) -> int:
        return one + other

    @app.task(name="memory.fail", shared=False)
    def fail() -> None:
        raise ValueError("as expected")

    with start_worker(app, perform_ping_check=False, pool=pool, concurrency=1, shutdown_timeout=30):
        assert add.delay(1, 2).get(timeout=10) == 3
        with pytest.raises(ValueError, match="as expected"):
            fail.delay().get(timeout=10)
        with pytest.raises(NotSupervised, match="memory://"):
            orchestrator.send(add.s(1, 2))


class Noted(Message):
    """A message whose handler notes what it knows."""

    name: str
    fails: bool = False


class Clerk(Agent):
    """Notes what it is sent."""

    name = "clerk"
    priority = 3
    seen: ClassVar[Queue[tuple[str, int]]]

    @handles(Noted)
    def note(self, message: Noted, context: Context) -> str:
        """Note it."""
        type(self).seen.put((message.name, context.attempt))
        if message.fails:
            raise ValueError(message.name)
        return message.name


def by_name(app: Celery, body: dict[str, Any]) -> None:
    app.send_task("clerk.Noted", [body])


def by_task(app: Celery, body: dict[str, Any]) -> None:
    app.tasks["clerk.Noted"].delay(body)


def by_beat(app: Celery, body: dict[str, Any]) -> None:
    app.conf.beat_schedule = {"note": {"task": "clerk.Noted", "schedule": 1.0, "args": [body]}}
    scheduler = Scheduler(app=app)
    scheduler.apply_async(scheduler.schedule["note"], producer=scheduler.producer)


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize("pool", ["solo", "threads"])
@pytest.mark.parametrize("send", [by_name, by_task, by_beat])
def test_celery_s_own_sends_reach_an_agent_on_memory_unsupervised(
    send: Callable[[Celery, dict[str, Any]], None], pool: str
) -> None:
    """Regression: ``app.send_task`` and beat raised NotSupervised, so nothing could reach an agent there."""
    Clerk.seen = Queue()
    app = Celery("memory", broker="memory://", backend="cache+memory://", set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    with start_worker(app, perform_ping_check=False, pool=pool, concurrency=1, shutdown_timeout=30):
        send(app, {"name": "first", "fails": True})
        assert Clerk.seen.get(timeout=20) == ("first", 1)
        send(app, {"name": "second"})
        # Nobody retries there.
        assert Clerk.seen.get(timeout=20) == ("second", 1)
        with pytest.raises(NotSupervised, match=r"memory://; allowed: a redis://.*app\.send_task\('AGENT.MESSAGE', "):
            orchestrator.send("clerk", Noted(name="third"))
    assert Clerk.seen.empty()


def test_a_message_for_an_agent_goes_to_its_mailbox_there_too() -> None:
    app = Celery("memory", broker="memory://", set_as_current=False)
    Orchestrator(app).host(Clerk)
    app.send_task("clerk.Noted", [{"name": "n"}])
    app.send_task("clerk.Noted", [{"name": "n"}], queue="elsewhere")
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        counts = {name: channel._size(name) for name in ("clerk", "elsewhere", "celery") if channel._has_queue(name)}
        assert {name: size for name, size in counts.items() if size} == {"clerk": 1, "elsewhere": 1}
        message = channel._get("clerk")
        assert "orc" not in message["headers"]
        assert message["properties"]["priority"] == 3
        channel._purge("elsewhere")


def test_a_worker_on_another_broker_says_once_that_nothing_is_supervised() -> None:
    command = [sys.executable, "-m", "celery", "-A", APP, "worker", "-P", "solo", "-l", "INFO"]
    environment = {**os.environ, **AS_ROOT, "LATE_BROKER_URL": "memory://"}
    seen: list[str] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        for line in worker.stderr:
            seen.append(line)
            if " ready." in line:
                worker.terminate()
        assert worker.wait(timeout=30) == 0, seen
    assert len([line for line in seen if "nothing is supervised" in line]) == 1, seen


@pytest.mark.parametrize(
    ("command", "url", "said"),
    [
        (("worker", "-P", "solo"), "rabbit://h", "broker_url='rabbit://h': kombu has no transport 'rabbit'; allowed: "),
        (("call", "add"), "redis://h/abc", "broker_url='redis://h/abc': allowed: a port from 1 to 65535, and a dat"),
        (("ledger",), "redis+cluster://h/0", "broker_url='redis+cluster://h/0': Redis Cluster is not supported; all"),
    ],
)
def test_a_url_that_nobody_can_use_is_refused_in_one_line(command: tuple[str, ...], url: str, said: str) -> None:
    done = celery("-A", APP, *command, LATE_BROKER_URL=url, **AS_ROOT)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: invalid settings: {said}")
