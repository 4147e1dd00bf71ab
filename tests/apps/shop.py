"""A Celery app with an agent and plain tasks, for the tests of the command line and of Flower.

``celery -A tests.apps.shop worker`` hosts it; a test that runs in its own process makes its own with :func:`make`.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from pydantic import PositiveInt

from orchestrator import Agent, Context, Exponential, Message, Orchestrator, Retry, handles, load_settings

_SOON = Exponential(initial_s=0.01, cap_s=0.02)


class Charge(Message):
    """Is handled."""

    order_id: str
    cents: PositiveInt
    card_number: str | None = None


class Refund(Message):
    """Fails always, with a text that repeats a secret."""

    order_id: str
    card_number: str = "4111"


class Reconcile(Message):
    """Fails so many times, then is handled."""

    failures: int = 1


class Billing(Agent):
    """Charges cards."""

    name = "billing"
    retry = Retry(max_retries=2, backoff=_SOON)

    @handles(Charge)
    def charge(self, message: Charge) -> dict[str, Any]:
        return {"order_id": message.order_id, "charged": message.cents, "card_number": message.card_number}

    @handles(Refund)
    def refund(self, message: Refund) -> None:
        raise ConnectionError(f"bank refused order {message.order_id}, card_number={message.card_number!r}")

    @handles(Reconcile)
    def reconcile(self, message: Reconcile, context: Context) -> int:
        if context.attempt <= message.failures:
            raise TimeoutError(f"attempt {context.attempt}")
        return context.attempt


def add(a: int, b: int) -> int:
    """A plain task."""
    return a + b


def fail(text: str) -> None:
    """A plain task that fails."""
    raise ValueError(text)


def make(broker_url: str | None = None, *, hosts: bool = True, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``. With ``hosts=False`` it declares no agent."""
    app = Celery("shop", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = broker_url
        app.conf.broker_url = broker_url
    orchestrator = Orchestrator(app, load_settings(**settings))
    for function in (add, fail):
        app.task(name=f"shop.{function.__name__}", shared=False)(function)
    if hosts:
        orchestrator.host(Billing)
    return orchestrator


orchestrator = make(hosts="SHOP_HOSTS_NOTHING" not in os.environ)
app = orchestrator.app
