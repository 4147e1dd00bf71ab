"""A key that something else has written: users get an error that names it, not one that says that Redis is away."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, Orchestrator
from orchestrator.cli.doctor import examine
from orchestrator.core.errors import BrokenKey
from orchestrator.core.key_types import type_of
from orchestrator.core.keys import Keys
from tests.support.schedules_under_test import Reconcile, scheduling_app


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """An app with an agent in an empty Redis."""
    made = scheduling_app(redis_url)
    yield made
    made.app.close()


@pytest.mark.parametrize(
    ("key", "needed", "act"),
    [
        ("orc:schedules", "hash", lambda o: o.schedules.add("a", "ledgers", Reconcile(), every_s=5)),
        ("orc:agents", "hash", lambda o: o.call("elsewhere", Reconcile(), timeout_s=1)),
        ("orc:q:0:ledgers", "stream", lambda o: o.send("ledgers", Reconcile())),
        ("orc:ledger:ledgers", "hash", lambda o: o.send("ledgers", Reconcile())),
        ("orc:ledger:ledgers", "hash", lambda o: o.ledger()),
        ("orc:queues", "set", lambda o: o.ledger()),
        ("orc:dead-letters", "stream", lambda o: o.dead_letters.count()),
        ("orc:named:lease:a", "hash", lambda o: _acquire(o)),
        ("orc:outcome:x", "list", lambda o: o.delivery("x").outcome()),
    ],
)
def test_the_error_names_the_key_and_what_was_found(
    orchestrator: Orchestrator, key: str, needed: str, act: Callable[[Any], Any]
) -> None:
    client = orchestrator.runtime.store.client
    client.sadd("orc:queues", "ledgers")
    client.delete(key)
    if needed == "hash":
        client.set(key, "x")
    else:
        client.hset(key, "x", "y")
    with pytest.raises(BrokenKey) as broken:
        act(orchestrator)
    found = "string" if needed == "hash" else "hash"
    assert (broken.value.key, broken.value.found, broken.value.needed) == (key, found, needed)
    assert str(broken.value).startswith(f"key '{key}' in Redis is a {found}, written by something else; allowed: a ")
    assert isinstance(broken.value, BrokerUnavailable), "who catches that, catches this"


def test_the_doctor_names_the_keys_and_none_of_a_redis_that_is_well(orchestrator: Orchestrator) -> None:
    client = orchestrator.runtime.store.client
    with orchestrator.monitors.session():
        orchestrator.pool("p", ["a", "b"]).checkout()
        orchestrator.barrier("b", parties=2).arrive("x", then=Reconcile(), to="ledgers")
        orchestrator.schedules.add("a", "ledgers", Reconcile(), every_s=5)
        orchestrator.send("ledgers", Reconcile())
        found: Any = client.keys("orc:*")
        unknown = [key for key in (raw.decode() for raw in found) if not type_of(Keys(), key)]
        text, passed = examine(orchestrator.runtime.store, "refuse", as_json=False)
    assert (unknown, passed) == ([], True), text
    assert "ok    keys: all of the types that are needed" in text
    client.set("orc:named:lease:a", "x")
    client.hset("orc:q:0:ledgers|x", "y", "z")
    client.hset("someone-elses", "y", "z")
    text, passed = examine(orchestrator.runtime.store, "refuse", as_json=False)
    assert not passed
    assert "'orc:named:lease:a' is a string, needed: a hash; 'orc:q:0:ledgers|x' is a hash, needed: a stream" in text
    assert "someone-elses" not in text


@pytest.mark.parametrize(
    ("field", "act"),
    [
        ("accepted", lambda o: o.send("ledgers", Reconcile())),
        ("accepted", lambda o: o.send_many("ledgers", [Reconcile(), Reconcile()])),
        ("cancelled", lambda o: o.send("ledgers", Reconcile()).cancel()),
    ],
    ids=["send", "send many", "cancel"],
)
def test_a_counter_that_is_no_number_begins_anew_and_is_named(
    orchestrator: Orchestrator, field: str, act: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: each send was refused, and the ledger raised ValueError."""
    client, key = orchestrator.runtime.store.client, "orc:ledger:ledgers"
    client.sadd("orc:queues", "ledgers")
    client.hset(key, field, b"\xff many")
    assert orchestrator.ledger()[0].accepted == 0
    assert f"{key}: {field} is " in caplog.text
    act(orchestrator)
    assert client.hget(key, f"broken: {field}") == b"\xff many"
    (row,) = orchestrator.ledger()
    assert (row.lost, getattr(row, field)) == (0, row.accepted)
    text, passed = examine(orchestrator.runtime.store, "refuse", as_json=False)
    assert passed, "workers serve it"
    assert f"warn  keys: something else has written to keys of this library: 'broken: {field}' in '{key}' is " in text


def test_what_is_put_beside_a_ledger_of_another_type_is_taken_out_again(orchestrator: Orchestrator) -> None:
    """Regression: the sender got an error, and the message was handled."""
    client = orchestrator.runtime.store.client
    client.set("orc:ledger:ledgers", "x")
    with pytest.raises(BrokenKey):
        orchestrator.send("ledgers", Reconcile())
    with pytest.raises(BrokerUnavailable, match="another type"):
        orchestrator.send_many("ledgers", [Reconcile(), Reconcile()])
    assert client.xlen("orc:q:0:ledgers") == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("run:u1", "hash"),
        ("run:u1:agenda", "list"),
        ("run:u1:unplaced", "zset"),
        ("group:g", "hash"),
        ("group:g:handled", "list"),
        ("barrier-ended:3:b", "string"),
        ("run:u1:later", ""),
    ],
)
def test_keys_beside_others_have_types_of_their_own(name: str, kind: str) -> None:
    assert type_of(Keys("shop:"), f"shop:orc:{name}") == kind


def test_each_key_has_a_type() -> None:
    keys, missing = Keys("shop:"), []
    no_keys = ("root", "schedules_bell", "queue_of_ledger", "prefix")
    for name, member in vars(Keys).items():
        if name.startswith("_") or name in no_keys:
            continue
        if isinstance(member, property):
            made = getattr(keys, name)
        else:
            parameters = list(inspect.signature(member).parameters.values())[1:]
            made = getattr(keys, name)(*[1 if one.annotation == "int" else "agent" for one in parameters])
        if not type_of(keys, made):
            missing.append(made)
    assert missing == []
    assert type_of(keys, "other") == ""


def _acquire(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session(), orchestrator.lease("a"):
        pass
