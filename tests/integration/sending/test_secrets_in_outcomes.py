"""What is kept of a failure, wherever it is made, holds no value of a secret field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Dead, Orchestrator
from orchestrator.core.deliveries.outcome import to_wire
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.transport import TRANSPORT
from tests.apps import secrets_app as app
from tests.apps.secrets_app import SECRET
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


def shows_no_secret(orchestrator: Orchestrator, delivery: Any) -> Dead:
    outcome = delivery.wait(timeout_s=20)
    assert isinstance(outcome, Dead)
    assert SECRET not in outcome.error
    assert SECRET not in json.dumps(to_wire(outcome))
    assert SECRET not in str([attempt.to_wire() for attempt in delivery.history()])
    for letter in orchestrator.dead_letters.list(10):
        assert SECRET not in json.dumps([letter.error_message, *(failure.to_wire() for failure in letter.failures)])
    return outcome


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def cluster(request: pytest.FixtureRequest) -> Iterator[tuple[Orchestrator, str]]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.secrets_app",
            server.url,
            pool=request.param,
            queues="clerk,deputy",
            environment={"ORCHESTRATOR_REDACT": '["user"]'},
        ),
    ):
        orchestrator = app.make(server.url, redact=("user",))
        yield orchestrator, server.url
        orchestrator.app.close()


def recorded(url: str) -> str:
    """All outcomes and reasons of dead letters in Redis, as they lie there; not the messages themselves."""
    with Redis.from_url(url, decode_responses=True) as redis:
        outcomes = [item for key in redis.scan_iter("*outcome:*") for item in redis.lrange(key, 0, -1)]
        letters = [fields["letter"] for key in redis.scan_iter("*dead-letters") for _, fields in redis.xrange(key)]
        return json.dumps([outcomes, letters])


def test_an_error_that_names_a_secret(cluster: tuple[Orchestrator, str]) -> None:
    orchestrator, url = cluster
    outcome = shows_no_secret(orchestrator, orchestrator.send("clerk", app.pay()))
    assert "no money for pin=**redacted**" in outcome.error
    assert SECRET not in recorded(url)


def test_an_error_of_an_attempt_that_is_repeated(cluster: tuple[Orchestrator, str]) -> None:
    orchestrator, url = cluster
    outcome = shows_no_secret(orchestrator, orchestrator.send("clerk", app.pay(), retry=app.TWICE))
    assert outcome.attempts == 2
    assert SECRET not in recorded(url)


def test_an_error_that_names_a_field_of_the_settings(cluster: tuple[Orchestrator, str]) -> None:
    orchestrator, url = cluster
    shows_no_secret(orchestrator, orchestrator.send("clerk", app.Complain(text=f"user={SECRET}")))
    assert SECRET not in recorded(url)


def test_an_error_of_a_result_that_is_none(cluster: tuple[Orchestrator, str]) -> None:
    orchestrator, url = cluster
    shows_no_secret(orchestrator, orchestrator.send("clerk", app.Complain(text=f"user={SECRET}", returned=True)))
    assert SECRET not in recorded(url)


def test_a_message_of_a_sender_without_this_library(cluster: tuple[Orchestrator, str]) -> None:
    orchestrator, url = cluster
    before = orchestrator.dead_letters.count()
    stranger = Celery("stranger", broker=url, set_as_current=False)
    stranger.conf.update(broker_transport=TRANSPORT, task_serializer="json")
    stranger.send_task("clerk.Pay", [{"user": "u", "pin": SECRET}], queue="clerk")
    eventually(lambda: orchestrator.dead_letters.count() > before, 20)
    assert SECRET not in recorded(url)
    stranger.close()


def test_eager_mode() -> None:
    orchestrator = app.make(eager=True, redact=("user",))
    for message in (app.pay(), app.Complain(text=f"user={SECRET}"), app.Complain(text=f"user={SECRET}", returned=True)):
        shows_no_secret(orchestrator, orchestrator.send("clerk", message))
    shows_no_secret(orchestrator, orchestrator.send("clerk", app.pay(), retry=app.TWICE))
