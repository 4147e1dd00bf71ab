"""Agents that hold leases, on real workers: ``celery -A tests.apps.leases_app worker``."""

from __future__ import annotations

import contextlib
import os
import threading

from celery import Celery

from orchestrator import Agent, Context, LeaseLost, LeaseTaken, Message, Orchestrator, Retry, handles, load_settings
from orchestrator.worker.execution.running_attempt import RunningAttempt, innermost
from tests.support.forks import in_fork
from tests.support.notes_in_redis import own_redis, record

HOLD_S = 60


class Hold(Message):
    """Hold this lease until the test pushes to ``test:go``; then say whether it is still held."""

    name: str


class HoldForEver(Message):
    """Hold this lease, and do not react to a time limit."""

    name: str


class Fork(Message):
    """Hold this lease, and say what a forked child can do with it, and what becomes of it."""

    name: str


class Lead(Message):
    """Lead this election, and fail the first attempt."""

    name: str


class Leaseholder(Agent):
    name = "holder"

    @handles(Hold)
    def hold(self, message: Hold, context: Context) -> str:
        with context.orchestrator.lease(message.name, wait_s=30) as lease:
            record("test:held", fence=lease.fence, owner=lease.owner, pid=os.getpid(), attempt=context.attempt)
            own_redis().blpop(["test:go"], timeout=HOLD_S)
            try:
                lease.check()
            except LeaseLost:
                return "lost"
            return "held"

    @handles(HoldForEver, timeout_s=0.5, retry=Retry(max_retries=0))
    def hold_for_ever(self, message: HoldForEver, context: Context) -> None:
        with context.orchestrator.lease(message.name) as lease:
            record("test:held", fence=lease.fence, owner=lease.owner, pid=os.getpid())
            while True:
                with contextlib.suppress(BaseException):
                    threading.Event().wait(HOLD_S)

    @handles(Fork)
    def fork(self, message: Fork, context: Context) -> list[str]:
        running = innermost()
        assert isinstance(running, RunningAttempt)
        lease = context.orchestrator.lease(message.name).acquire()
        found = [
            in_fork(lambda: context.orchestrator.lease("other").acquire()),
            in_fork(lease.check),
            in_fork(lease.release),
            in_fork(running.end),
        ]
        lease.check()
        return [*found, "held"]

    @handles(Lead, retry=Retry(max_retries=1))
    def lead(self, message: Lead, context: Context) -> int:
        led = context.orchestrator.election(message.name).campaign()
        if context.attempt == 1:
            raise ConnectionError("not this time")
        return led.number


def make(url: str | None = None) -> Orchestrator:
    app = Celery("leases", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url, lease_s=2)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Leaseholder)

    @app.task(name="hold_early", acks_late=False, shared=False)
    def hold_early(name: str, lets_go: bool) -> None:
        try:
            # Without a block: it ends with the attempt.
            lease = orchestrator.lease(name, reentrant=True).acquire()
        except LeaseTaken:
            record("test:held", refused=True)
            return
        record("test:held", fence=lease.fence, refused=False)
        if not lets_go:
            own_redis().blpop(["test:go"], timeout=HOLD_S)

    return orchestrator


orchestrator = make()
app = orchestrator.app
