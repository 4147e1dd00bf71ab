"""A worker that has lost its consumer, as its signs of life tell it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection

from orchestrator.embedded import EmbeddedServer
from orchestrator.health.health_reporter import HealthReporter
from orchestrator.transport.liveness import consumer_absence, incarnation
from orchestrator.worker.bootsteps.start import should_consume
from tests.apps import agents_app
from tests.support.bare_broker import kombu_connection
from tests.support.eventually import eventually


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> HealthReporter:
    """The signs of life of a process of our own, in which everything happens soon."""
    pulse = HealthReporter()
    pulse._pid = os.getpid()
    for module in (incarnation, consumer_absence):
        monkeypatch.setattr(module, "HEALTH_REPORTER", pulse)
    monkeypatch.setattr(incarnation, "_LINGER_S", 0.05)
    monkeypatch.setattr(incarnation, "_LINGER_AFTER_OUTAGE_S", 0.05)
    monkeypatch.setattr(consumer_absence, "_CHECK_EVERY_S", 0.05)
    return pulse


def absent_s(pulse: HealthReporter) -> float:
    return float(pulse._signs().get("absent_s", 0.0))


def consumed_once(connection: Connection, queue: str = "q") -> None:
    """A consumer that goes, and takes its channel along."""
    channel = connection.channel()
    channel.basic_consume(queue, False, lambda message: None, "tag")
    channel.close()


def test_the_time_without_a_consumer_counts_while_redis_answers(server: EmbeddedServer, pulse: HealthReporter) -> None:
    pulse.start("w", lambda: True)
    with kombu_connection(server.url) as connection:
        consumed_once(connection)
        eventually(lambda: absent_s(pulse) > 0.5)
        server.kill()
        eventually(lambda: 0 < absent_s(pulse) < 0.2)
        server.restart()
        eventually(lambda: absent_s(pulse) > 0.3)
    with kombu_connection(server.url) as connection:
        channel = connection.channel()
        channel.basic_consume("q", False, lambda message: None, "tag")
        assert pulse._signs()["incarnation"]
        assert absent_s(pulse) == 0
        channel.close()


@pytest.mark.parametrize("consumes", [None, lambda: False])
def test_whoever_is_no_worker_or_has_no_queue_misses_nothing(
    server: EmbeddedServer, pulse: HealthReporter, consumes: Any
) -> None:
    pulse.start("w", consumes)
    with kombu_connection(server.url) as connection:
        consumed_once(connection)
        eventually(lambda: not pulse._signs().get("incarnation"))
        with pytest.raises(AssertionError):
            eventually(lambda: absent_s(pulse) > 0.5, timeout_s=1)


def test_a_worker_is_to_consume_unless_it_stops_or_was_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0")
    import celery.worker.state as state  # what a worker has loaded

    assert sys.modules["celery.worker.state"] is state
    assert should_consume(orchestrator.app)
    queues = orchestrator.app.amqp.queues
    for name in tuple(queues.consume_from):
        queues.deselect(name)
    assert not should_consume(orchestrator.app)
    queues.select_add("worker")
    assert should_consume(orchestrator.app)
    monkeypatch.setattr(state, "should_stop", 0)
    assert not should_consume(orchestrator.app)
