"""Which brokers an Orchestrator supervises, which it leaves to Celery, and which it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.concurrency.solo import TaskPool as SoloPool

from orchestrator import InvalidSettings, NotSupervised, Orchestrator
from orchestrator.transport.transport import TRANSPORT
from orchestrator.worker.bootsteps.start import refuse_start
from orchestrator.worker.startup_warnings import startup_warnings
from tests.support.billing_agent import Billing, Charge, nothing, orchestrated
from tests.support.workers_for_steps import Worker

AWAY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost/0",
        "rediss://localhost/0",
        "redis:///run/redis.sock",
        "sentinel://a;sentinel://b",
        ["redis://a", "redis://b"],
    ],
)
def test_a_redis_url_gets_the_transport(url: str | list[str]) -> None:
    app = Celery("shop", broker=url, set_as_current=False)
    Orchestrator(app)
    assert app.conf.broker_transport == TRANSPORT


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+socket:///run/redis.sock", r"kombu uses its own transport there; allowed: redis:///run/redis\.sock"),
        (
            "redis+cluster://:secret@h/0",
            r"'redis\+cluster://:\*\*@h/0': Redis Cluster is not supported; allowed: a URL",
        ),
        (
            "rabbit://h",
            "broker_url='rabbit://h': kombu has no transport 'rabbit'; allowed: a URL that starts",
        ),
        ("redis://h/abc", "broker_url='redis://h/abc': allowed: a port from 1 to 65535, and a database number after"),
        ("redis://h:99999/0", "allowed: a port from 1 to 65535"),
        ("sentinel://h/zero", "a database number after"),
        (["redis://a/0", "redis://b/x"], "broker_url='redis://b/x'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_one_line_by_whoever_uses_it(url: Any, said: str) -> None:
    app = Celery("shop", set_as_current=False)
    orchestrator = orchestrated(app)
    app.conf.broker_url = url
    task = app.task(name="shop.tidy", shared=False)(nothing)
    for use in (
        lambda: orchestrator.send(Billing, Charge(cents=1)),
        task.delay,
        app.connection_for_read,
        lambda: refuse_start(orchestrator.runtime, Worker(app, SoloPool)),
    ):
        with pytest.raises(InvalidSettings, match=said) as refused:
            use()
        assert "\n" not in str(refused.value)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["memory://", "amqp://127.0.0.1:1//", "filesystem://"])
def test_another_broker_is_celerys_and_that_is_said(url: str) -> None:
    app = Celery("elsewhere", broker=url, set_as_current=False)
    orchestrator = orchestrated(app)
    refuse_start(orchestrator.runtime, Worker(app, SoloPool))
    assert (orchestrator.runtime.is_supervised, app.conf.broker_transport, app.conf.beat_schedule) == (False, None, {})
    (line,) = startup_warnings(app, [])
    assert line.startswith(
        f"nothing is supervised: the broker's transport is that of {url.partition(':')[0]}://; allowed"
    )
    with pytest.raises(NotSupervised, match="redis://"):
        orchestrator.send(Billing, Charge(cents=1))
    with pytest.raises(NotSupervised) as refused:
        _ = orchestrator.runtime.store
    assert "**" not in str(refused.value)


def test_a_broker_that_celerys_own_variable_names_is_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", AWAY)
    app = Celery("shop", broker="amqp://127.0.0.1:1//", set_as_current=False)
    assert orchestrated(app).runtime.is_supervised
