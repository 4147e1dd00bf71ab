"""What nobody needs any more is found in Redis when nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from chaos.barriers import MUSTER
from chaos.lanes import LANE
from chaos.leftovers import leftovers
from orchestrator import Orchestrator, load_settings
from orchestrator.transport.store import Store
from tests.support.schedules_under_test import Schedules, scheduling_app


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    app = Celery(uuid4().hex, broker=redis_url, set_as_current=False)
    yield Orchestrator(app, load_settings(broker_url=redis_url)).runtime.store
    app.close()


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (f"permits:{LANE}", "that nobody needs any more"),
        (f"permits-used:{LANE}", "that nobody needs any more"),
        (f"barriers-of:{MUSTER}", "kept for ever"),
        (f"barrier-waiting:{MUSTER}", "kept for ever"),
        ("runs:placed:crane-1", "that nobody needs any more"),
    ],
)
def test_a_permit_a_place_and_a_placement_that_are_left_are_found(store: Store, key: str, what: str) -> None:
    assert leftovers(store) == []
    store.client.hset(f"{store.keys.root}{key}", "east", 1)
    (found,) = leftovers(store)
    assert found.startswith(f"{store.keys.root}{key}: ")
    assert what in found


def test_a_worker_that_was_declared_dead_and_was_not_is_remembered(store: Store) -> None:
    client: Any = store.client
    client.zadd(store.keys.disproved, {"solo-1@vm:1#1": 1})
    assert leftovers(store) == []


def test_what_code_declares_stays(store: Store, redis_url: str) -> None:
    """Regression: each run of chaos ended with a violation."""
    schedules = Schedules(scheduling_app(redis_url))
    schedules.declare(owner="s:chaos")
    schedules.orchestrator.schedules["nightly"].pause()
    assert leftovers(store) == []
    schedules.app.close()


def test_a_key_that_expires_meanwhile_is_no_leftover(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = store.client
    inbox = store.keys.inbox("a")
    client.set(inbox, 1, px=60_000)
    ask = client.pttl

    def expire_before(key: str) -> Any:
        client.delete(key)
        return ask(key)

    monkeypatch.setattr(client, "pttl", expire_before)
    assert leftovers(store) == []
