"""A supervised send to a queue that may vanish with its messages is refused; a worker of such a queue says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from orchestrator import Agent, InvalidPolicy, Message, Orchestrator, handles
from orchestrator.worker.startup_warnings import startup_warnings

EXPIRING = Queue("brief", Exchange("brief"), routing_key="brief", expires=60)
QUEUES = {
    "expires": EXPIRING,
    "x-expires": Queue("brief", Exchange("brief"), routing_key="brief", queue_arguments={"x-expires": 60_000}),
    "auto_delete": Queue("brief", Exchange("brief"), routing_key="brief", auto_delete=True),
}


def nothing() -> None:
    pass


class Charge(Message):
    cents: int


class Billing(Agent):
    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> None:
        """Do nothing."""


def make(*queues: Queue, eager: bool = True) -> Any:
    app = Celery("brief", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_queues = [Queue("celery"), *queues]
    app.conf.task_always_eager = eager
    app.task(nothing, name="plain", shared=False)
    Orchestrator(app).host(Billing)
    return app


WAYS: dict[str, Callable[[Any], Any]] = {
    "signature": lambda app: app.tasks["plain"].s().set(queue="brief"),
    "route": lambda app: app.conf.update(task_routes={"plain": {"queue": "brief"}}) or app.tasks["plain"].s(),
    "exchange": lambda app: app.tasks["plain"].s().set(exchange="brief", routing_key="brief"),
    "default": lambda app: app.conf.update(task_default_queue="brief") or app.tasks["plain"].s(),
}


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("queue", QUEUES)
def test_a_send_there_is_refused(queue: str, way: str, eager: bool) -> None:
    """Regression: it was accepted, and gone without outcome or ledger when the queue expired."""
    app = make(QUEUES[queue], eager=eager)
    why = "auto_delete" if queue == "auto_delete" else "x-expires"
    with pytest.raises(InvalidPolicy, match=f"queue='brief' is not allowed; allowed: a queue that lasts.*{why}"):
        app.orchestrator.send(WAYS[way](app))


def test_a_queue_of_the_send_s_own_is_looked_at_too() -> None:
    app = make()
    with pytest.raises(InvalidPolicy, match="x-expires"):
        app.orchestrator.send(app.tasks["plain"].s().set(queue=EXPIRING))


def test_a_lasting_queue_is_taken() -> None:
    app = make(Queue("brief"))
    app.orchestrator.send(app.tasks["plain"].s().set(queue="brief")).wait(timeout_s=1)


@pytest.mark.parametrize("queue", QUEUES)
def test_a_worker_of_it_says_so(queue: str) -> None:
    (line,) = startup_warnings(make(QUEUES[queue]), [])
    assert line.startswith("queue 'brief': supervised sends to it are refused, for it ")


def test_an_agent_s_mailbox_lasts_whatever_the_settings_say_of_it() -> None:
    app = make(Queue("billing", expires=60))
    assert app.amqp.queues["billing"].expires is None
    app.orchestrator.send("billing", Charge(cents=1)).wait(timeout_s=1)
