"""Fixtures of tests that run in eager mode and on Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from tests.support.coordination_under_test import close, make


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    """An app of a script that uses leases."""
    eager = request.param == "eager"
    made = make("redis://127.0.0.1:1/0" if eager else request.getfixturevalue("redis_url"), eager=eager)
    yield made
    close(made)


@pytest.fixture
def session(orchestrator: Orchestrator) -> Iterator[Any]:
    """A session of that app, open during the test."""
    with orchestrator.monitors.session() as session:
        yield session
