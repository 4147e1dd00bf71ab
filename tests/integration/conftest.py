"""Fixtures of tests that run on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from tests.apps import shop as shop_app
from tests.support.bare_broker import BareBroker
from tests.support.ends import Ends
from tests.support.letters_under_test import LettersInRedis


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
