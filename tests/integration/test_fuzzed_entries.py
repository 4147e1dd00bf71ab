"""Entries that nobody's publisher wrote, thrown at a real worker: each is a dead letter, and the worker goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.deadletters.stream import StreamShelf
from orchestrator.embedded import EmbeddedServer
from tests.bare_broker import BareBroker
from tests.eventually import eventually
from tests.unit.json_data import json_data
from tests.worker_process import WorkerProcess

_GOOD: dict[str, Any] = {
    "body": "W10=",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": "note", "id": "x"},
    "properties": {"delivery_info": {"exchange": "", "routing_key": "celery"}, "body_encoding": "base64"},
}

not_objects = json_data.filter(lambda value: value is not None and not isinstance(value, dict))


def spoilt(part: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """A message as kombu writes it, but for one part."""
    return values.map(lambda value: json.dumps({**_GOOD, part: value}).encode())


malformed = st.one_of(
    st.binary(max_size=60),
    json_data.map(lambda value: json.dumps(value).encode()),
    spoilt("properties", st.one_of(st.none(), not_objects)),
    spoilt("body", json_data.filter(lambda value: not isinstance(value, str))),
    spoilt("headers", not_objects),
    st.integers(0, len(json.dumps(_GOOD)) - 1).map(lambda at: json.dumps(_GOOD).encode()[:at]),
)

#: What the transport itself notes beside a message, in somebody else's hand.
pasts = st.dictionaries(st.sampled_from(["d", "u", "x"]), st.one_of(st.binary(max_size=12), st.just(b"[1]")))

entries = st.tuples(malformed, pasts, st.booleans())


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[BareBroker, WorkerProcess]]:
    with EmbeddedServer() as server, WorkerProcess("tests.apps.bare", server.url) as worker:
        broker = BareBroker(server.url)
        yield broker, worker
        broker.close()


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(thrown=st.lists(entries, min_size=1, max_size=6))
def test_each_is_a_dead_letter_and_the_next_good_one_is_handled(
    house: tuple[BareBroker, WorkerProcess], thrown: list[tuple[bytes, dict[str, bytes], bool]]
) -> None:
    broker, worker = house
    keys, before = broker.store.keys, broker.ledger()
    first = broker.redis.xlen(keys.dead_letters)
    for raw, past, returned in thrown:
        step = "returned-0" if returned else "0"
        broker.redis.hincrby(keys.ledger("celery"), "accepted", 1)
        broker.redis.xadd(keys.step("celery", step), {"m": raw, **past})
    broker.send("note", "good")
    eventually(lambda: broker.ledger().handled == before.handled + 1, describe=worker.log)
    eventually(lambda: broker.ledger().pending == 0, describe=worker.log)
    row = broker.ledger()
    assert (row.dead - before.dead, row.lost) == (len(thrown), 0)
    letters = StreamShelf(broker.store).newest(len(thrown), "+")
    assert broker.redis.xlen(keys.dead_letters) == first + len(thrown)
    assert sorted(fields[b"m"] for _, fields, _ in letters) == sorted(raw for raw, _, _ in thrown)
    assert broker.redis.zcard(keys.leases) == 1
    assert not broker.redis.exists(keys.deaths), "the worker is the one that was started"
