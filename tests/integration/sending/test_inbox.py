"""What an asker waits for: it looks up in time, also where Redis is late to say that nothing came."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from orchestrator import Handled, Orchestrator
from orchestrator.embedded import EmbeddedServer
from orchestrator.sending.calls.inbox import RedisInbox
from tests.support.living_agents import close, make, reader
from tests.support.many_files import many_open_files
from tests.support.timing import least_s


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    # Redis looks at who has waited for long enough this often, if nothing else happens.
    with EmbeddedServer(config={"hz": "1", "dynamic-hz": "no"}) as server:
        made = make(server.url, reader("book"))
        yield made
        close(made)


def put(orchestrator: Orchestrator, id: str, label: str) -> None:
    store: Any = orchestrator.runtime.store
    outcome = {"outcome": "handled", "result": label, "attempts": 1}
    store.client.xadd(store.keys.inbox(id), {"l": label, "o": json.dumps(outcome)})


def test_a_wait_ends_in_time_and_the_next_one_goes_on(orchestrator: Orchestrator) -> None:
    with RedisInbox(lambda: orchestrator.runtime.store, "box") as inbox:
        read: list[Any] = []
        took_s = least_s(lambda: read.extend(inbox.read(monotonic() + 0.02)))
        assert took_s < 0.4, "Redis itself would say so after up to a second"
        assert read == []
        came = threading.Timer(0.05, put, (orchestrator, "box", "one"))
        came.start()
        assert inbox.read(monotonic() + 20) == [("one", Handled("one", 1))]
        put(orchestrator, "box", "two")
        put(orchestrator, "box", "three")
        assert [label for label, _ in inbox.read(monotonic() + 20)] == ["two", "three"]
        assert inbox.read(monotonic()) == []


def test_a_wait_goes_on_over_a_broken_connection(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    with RedisInbox(lambda: store, "box") as inbox:
        assert inbox.read(monotonic() + 0.02) == []
        store.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        put(orchestrator, "box", "one")
        assert [label for label, _ in inbox.read(monotonic() + 20)] == ["one"]


def test_it_waits_in_a_process_with_many_open_files(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    with many_open_files(), RedisInbox(lambda: store, "box") as inbox:
        store.pool.disconnect()
        assert inbox.read(monotonic() + 0.02) == []
        put(orchestrator, "box", "one")
        assert [label for label, _ in inbox.read(monotonic() + 20)] == ["one"]


def test_what_it_waited_with_is_not_left_behind(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    put(orchestrator, "full", "one")
    for id in ("empty", "full"):
        with RedisInbox(lambda: store, id) as inbox:
            inbox.read(monotonic() + 0.02)
        # The connection is free again, and has no reply on its way that is for another command.
        assert store.client.ping()
        assert not any(client["cmd"] == "xread" and "b" in client["flags"] for client in store.client.client_list())
