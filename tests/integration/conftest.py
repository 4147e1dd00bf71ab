"""Fixtures of tests that run on real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bare_broker import BareBroker


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    """The transport alone, on an empty database of the shared server."""
    broker = BareBroker(redis_url)
    yield broker
    broker.close()
