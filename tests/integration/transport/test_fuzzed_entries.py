"""Entries that nobody's publisher wrote, thrown at a real worker: each is a dead letter, and the worker goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from orchestrator.core.keys import GROUP
from orchestrator.deadletters.redis.store import RedisDeadLetterStore
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.mailbox_entry import read_death_history
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker
from tests.support.drawn_examples import times_factor
from tests.support.eventually import eventually
from tests.support.json_data import json_data
from tests.support.worker_process import WorkerProcess

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
past = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"[1]", b"[1e999]", b'["\\udce9"]', b'[{"at":1e300}]', b"1e999", b"[" * 5000, b"[" * 990 + b"]" * 990]
    ),
    json_data.map(lambda value: json.dumps(value).encode()),
)
pasts = st.dictionaries(st.sampled_from(["d", "u", "x"]), past)

#: What is beside the task in the headers of a good message, from somebody who means no good.
orcs = st.one_of(
    json_data,
    st.fixed_dictionaries({"track": st.just(True)}, optional={"failures": st.lists(json_data, max_size=2)}),
)

entries = st.tuples(malformed, pasts, st.booleans())


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[BareBroker, WorkerProcess]]:
    with EmbeddedServer() as server, WorkerProcess("tests.apps.bare", server.url) as worker:
        broker = BareBroker(server.url)
        yield broker, worker
        broker.close()


@settings(
    max_examples=times_factor(40),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(thrown=st.lists(entries, min_size=1, max_size=6))
def test_each_is_a_dead_letter_and_the_next_good_one_is_handled(
    cluster: tuple[BareBroker, WorkerProcess], thrown: list[tuple[bytes, dict[str, bytes], bool]]
) -> None:
    broker, worker = cluster
    keys, before = broker.store.keys, broker.ledger()
    first = broker.redis.xlen(keys.dead_letters)
    for raw, past, returned in thrown:
        level = "returned-0" if returned else "0"
        broker.redis.hincrby(keys.ledger("celery"), "accepted", 1)
        broker.redis.xadd(keys.stream("celery", level), {"m": raw, **past})
    broker.send("note", "good")
    eventually(lambda: broker.ledger().handled == before.handled + 1, describe=worker.log)
    eventually(lambda: broker.ledger().pending == 0, describe=worker.log)
    row = broker.ledger()
    assert (row.dead - before.dead, row.lost) == (len(thrown), 0)
    letters = RedisDeadLetterStore(broker.store).newest(len(thrown), "+")
    assert broker.redis.xlen(keys.dead_letters) == first + len(thrown)
    assert sorted(fields[b"m"] for _, fields, _ in letters) == sorted(raw for raw, _, _ in thrown)
    assert broker.redis.zcard(keys.leases) == 1
    assert not broker.redis.exists(keys.deaths), "the worker is the one that was started"


@settings(
    max_examples=times_factor(40),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(thrown=st.lists(st.tuples(orcs, pasts), min_size=1, max_size=6), max_deaths=st.sampled_from([1, 2, 100]))
@example(thrown=[(None, {"d": b"[1e999]"}), (None, {"d": b"[" * 5000})], max_deaths=100)
@example(thrown=[({"track": True, "failures": [float("inf")]}, {"d": b"[1e999]"})], max_deaths=1)
def test_a_good_message_whose_holder_dies_is_requeued_or_a_letter_whatever_lies_beside_it(
    redis_url: str, thrown: list[tuple[Any, dict[str, bytes]]], max_deaths: int
) -> None:
    broker = BareBroker(redis_url)
    k, stream = broker.store.keys, broker.store.keys.stream("celery", "0")
    broker.redis.flushdb()
    broker.redis.sadd(k.queues, "celery")
    broker.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
    raws = []
    for number, (orc, past) in enumerate(thrown):
        headers = {"task": "note", "id": f"x{number}", "orc": orc}
        raws.append(json.dumps({**_GOOD, "headers": headers}))
        broker.redis.hincrby(k.ledger("celery"), "accepted", 1)
        broker.redis.xadd(stream, {"m": raws[-1], **past})
    broker.redis.xreadgroup(GROUP, "w:1#1", {stream: ">"})
    entries = [one["message_id"] for one in broker.redis.xpending_range(stream, GROUP, "-", "+", 100)]
    call = commands.requeue_held(
        k, "celery", stream, entries, max_deaths=max_deaths, ttl_ms=60_000, by="w:1#1", reason="killed"
    )
    said = broker.store.run(*call)
    returned = [fields for _, fields in broker.redis.xrange(k.stream("celery", "returned-0"))]
    letters = broker.letters()
    for fields in returned:
        assert read_death_history(b"0 " + fields["d"].encode()).deaths >= 1
    assert set(said) <= {b"returned", b"poison"}
    row = broker.ledger("celery")
    assert sorted(fields["m"] for fields in (*returned, *letters)) == sorted(raws)
    assert (row.ready, row.dead, row.lost) == (len(returned), len(letters), 0)
    broker.store.run(*commands.purge(k, "celery", 100, ttl_ms=60_000, stream=k.stream("celery", "returned-0")))
    assert (broker.ledger("celery").cancelled, broker.ledger("celery").lost) == (len(returned), 0)
    broker.close()


@given(past=st.one_of(past, st.just(b"0 " + b"[" * 200_000)))
def test_whatever_a_past_says_it_is_read(past: bytes) -> None:
    behind = read_death_history(past)
    assert behind.deaths >= behind.counted >= 0
    assert isinstance(behind.unattributed, int)
