"""Brokers that this library does not supervise, and URLs that nobody can use."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from orchestrator import Agent, Message, NotSupervised, Orchestrator, handles
from tests.command_line import celery

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
