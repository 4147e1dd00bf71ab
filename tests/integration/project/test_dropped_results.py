"""Results whose Redis has stopped, and errors while a module is parsed, do not reach into other tests."""

from __future__ import annotations

import ast
import gc
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from orchestrator.embedded import EmbeddedServer
from tests.support.eventually import eventually


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``__del__`` raises during the test."""
    raised: list[Any] = []
    # What earlier tests have left is none of it.
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    return raised


@pytest.fixture
def collect_always() -> Iterator[None]:
    """Collect garbage at each allocation."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*threshold)


def test_a_result_whose_redis_has_stopped_is_dropped_in_silence(unraisable: list[Any]) -> None:
    """Regression: Celery tried for 20 s to reach it, then raised in what garbage collection interrupted."""
    with EmbeddedServer() as server, Celery("gone", broker=server.url, backend=server.url) as app:
        results = [app.send_task("unknown") for _ in range(3)]
        eventually(lambda: len(app.backend.client.pubsub_channels()) == 3)
    results.clear()
    gc.collect()
    assert not unraisable


class Raises:
    """Raises when it is collected."""

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        raise RuntimeError("a".upper() + "b".upper())


def test_an_error_during_garbage_collection_does_not_break_a_parser(
    monkeypatch: pytest.MonkeyPatch, collect_always: None
) -> None:
    """Regression: `SystemError: AST constructor recursion depth mismatch`, which ended the process of the test."""
    formatted: list[str] = []

    def show(error: Any) -> None:
        """What pytest's hook does."""
        formatted.extend(traceback.format_exception(error.exc_type, error.exc_value, error.exc_traceback))

    monkeypatch.setattr(sys, "unraisablehook", show)
    for _ in range(20):
        Raises()
        ast.parse("f(a, [b, c], {d: e}) + 1")
    assert "AB" in "".join(formatted)
