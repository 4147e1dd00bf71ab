"""Fixtures of tests that run on real servers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.apps import shop as shop_app
from tests.support.bare_broker import BareBroker
from tests.support.ends import Ends
from tests.support.eventually import eventually
from tests.support.letters_under_test import LettersInRedis
from tests.support.lost_answers import LostAnswers
from tests.support.worker_process import WorkerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A Redis of the module's own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def network(redis_url: str) -> Iterator[LostAnswers]:
    """A network between apps and Redis that can lose answers."""
    with LostAnswers(redis_url) as network:
        yield network


@pytest.fixture(scope="module")
def sender(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[Orchestrator]:
    """A sender on that Redis, of the app that the module names in ``APP``."""
    made = importlib.import_module(request.module.APP).make(server.url)
    yield made
    made.app.close()


@pytest.fixture(scope="module")
def worker(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[WorkerProcess]:
    """A worker on that Redis, of the same app, with the options that the module names in ``WORKER``."""
    with WorkerProcess(request.module.APP, server.url, **request.module.WORKER) as worker:
        yield worker


@pytest.fixture(scope="module")
def workers(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[list[WorkerProcess]]:
    """Two such workers, which start at the same time."""
    both = [WorkerProcess(request.module.APP, server.url, name=name, **request.module.WORKER) for name in ("w1", "w2")]
    try:
        for worker in both:
            worker.start(wait=False)
        for worker in both:
            eventually(lambda: worker.incarnation, timeout_s=30)  # noqa: B023
        yield both
    finally:
        for worker in both:
            worker.close()


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    """The transport alone, on an empty database of the shared server."""
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


@pytest.fixture
def shop(redis_url: str) -> Iterator[Orchestrator]:
    """The app ``tests.apps.shop`` of a sender, on an empty database of the shared server."""
    made = shop_app.make(redis_url)
    yield made
    made.app.close()


@pytest.fixture
def letter_log(redis_url: str) -> Iterator[LettersInRedis]:
    """A dead-letter log on the same database."""
    made = LettersInRedis(redis_url, (), None)
    yield made
    made.close()


@pytest.fixture
def make_ends(redis_url: str) -> Iterator[Callable[..., Ends]]:
    """Makes senders of ``tests.apps.ends_app`` on the same database."""
    made: list[Ends] = []

    def make(**options: Any) -> Ends:
        made.append(Ends(redis_url, **options))
        return made[-1]

    yield make
    for ends in made:
        ends.close()
