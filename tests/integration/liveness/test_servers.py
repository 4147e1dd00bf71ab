"""Who serves a mailbox is known by the mailbox: entered by heartbeats, and taken out with the incarnation."""

from __future__ import annotations

import json

from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker


class Incarnations:
    """Incarnations that exist in Redis only."""

    def __init__(self, broker: BareBroker) -> None:
        self.keys, self.run, self.redis = broker.store.keys, broker.store.run, broker.redis

    def register(self, *queues: str) -> str:
        raw, _ = self.run(*commands.register(self.keys, "w:1", {"queues": json.dumps(queues)}))
        return str(raw.decode())

    def beat(self, incarnation: str, **fields: str) -> None:
        assert self.run(*commands.heartbeat(self.keys, incarnation, fields, missed_ms=1000))[0] == 1

    def servers(self, queue: str) -> set[str]:
        return set(self.redis.smembers(self.keys.servers(queue)))


def test_heartbeats_enter_an_incarnation_at_its_mailboxes(broker: BareBroker) -> None:
    known = Incarnations(broker)
    one, other = known.register("a"), known.register()
    known.beat(one, queues='["a", "b"]')
    known.beat(other, queues='["b"]')
    assert (known.servers("a"), known.servers("b")) == ({one}, {one, other})
    known.beat(one, queues='["b"]', held="0")
    known.beat(other, held="1")
    assert (known.servers("a"), known.servers("b")) == (set(), {one, other})


def test_who_is_fenced_serves_none_of_them(broker: BareBroker) -> None:
    known = Incarnations(broker)
    one, other = known.register("a", "b"), known.register("b")
    assert known.run(*commands.fence(known.keys, one, "killed", "test"))
    assert (known.servers("a"), known.servers("b")) == (set(), {other})


def test_who_has_no_lease_is_taken_out_when_it_is_looked_for(broker: BareBroker) -> None:
    known = Incarnations(broker)
    gone = [known.register("a") for _ in range(45)]
    known.redis.zrem(known.keys.leases, *gone)
    living = known.register("a")
    assert known.run(*commands.hold_mailbox(known.keys, "a", "here")) == 0
    assert living in known.servers("a")
    known.redis.zrem(known.keys.leases, living)
    assert known.run(*commands.hold_mailbox(known.keys, "a", "here")) == 1
    assert known.servers("a") == set()


def test_a_list_of_mailboxes_that_cannot_be_read_names_none(broker: BareBroker) -> None:
    known = Incarnations(broker)
    odd = known.register("a")
    known.beat(odd, queues="{")
    assert known.servers("a") == set()
