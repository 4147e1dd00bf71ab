"""Readers that sleep at a mailbox' streams when it becomes one of which only a claim says who may have its messages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.keys import DOORBELL, GROUP
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

QUEUE, ELECTION = "celery", "singleton:celery"
READERS = 3


def by_flow(store: Store) -> None:
    declare_flow(store, QUEUE, Flow(), serves=True, election=ELECTION)


def by_limit(store: Store) -> None:
    call = commands.declare_flow(
        store.keys, QUEUE, {}, serves=True, has_bound=False, has_breaker=False, concurrency=(1, "")
    )
    store.run(*call)


def by_candidate(store: Store) -> None:
    store.run(*commands.declare_singleton(store.keys, QUEUE, ELECTION))


@pytest.mark.parametrize("declare", [by_flow, by_limit, by_candidate])
def test_none_of_them_is_given_the_next_message(broker: BareBroker, declare: Callable[[Store], None]) -> None:
    """Regression: an old worker took one message more, for as long as it slept."""
    store, k = broker.store, broker.store.keys
    streams = [*(k.stream(QUEUE, level) for level in store.levels), k.stream(QUEUE, DOORBELL)]
    for stream in streams:
        broker.redis.xgroup_create(stream, GROUP, "0", mkstream=True)

    def sleep(name: str) -> list[str]:
        with redis.Redis.from_url(broker.url, client_name=name, decode_responses=True) as client:
            slept: Any = client.xreadgroup(GROUP, name, dict.fromkeys(streams, ">"), count=1, block=5000)
            return [stream for stream, _ in slept]

    def asleep() -> bool:
        clients = broker.redis.client_list()
        return {one["name"] for one in clients if one["cmd"] == "xreadgroup"} >= {*names}

    names = [f"sleeper-{number}" for number in range(READERS)]
    with ThreadPoolExecutor(READERS) as readers:
        for name in names:
            broker.redis.zadd(k.leases, {name: 1})
        slept = [readers.submit(sleep, name) for name in names]
        eventually(asleep)
        declare(store)
        broker.send("note", "m", queue=QUEUE)
        assert [one.result() for one in slept] == [[k.stream(QUEUE, DOORBELL)]] * READERS
    rung = broker.redis.xlen(k.stream(QUEUE, DOORBELL))
    declare(store)
    assert broker.redis.xlen(k.stream(QUEUE, DOORBELL)) == rung, "what is known already wakes nobody"
