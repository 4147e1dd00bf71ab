"""A heartbeat names its connection in the record, and a sweep takes a closed one as evidence of a death."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from orchestrator.monitors import redis_session
from orchestrator.transport.liveness.closed_clients import closed_clients
from orchestrator.transport.liveness.lease import Lease
from orchestrator.transport.redis.command_connection import CommandConnection
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.monitors_under_test import RedisUnderTest


def test_a_connection_that_is_opened_anew_while_it_is_named_proves_no_death(redis_url: str) -> None:
    """Regression: the closed one's id was recorded with the server's run as it was asked on the new connection."""
    broker = BareBroker(redis_url)
    store, wire = broker.store, CommandConnection(broker.store.pool)
    lease = Lease(wire, store.keys, store.options, store.broker)
    lease.register("w", {"node": "w"})
    call: Any = wire.call
    killed: list[int] = []

    def broken(*command: str) -> Any:
        if command[:2] == ("CLIENT", "SETNAME") and not killed:
            killed.append(broker.redis.client_kill_filter(_id=call("CLIENT", "ID")))
        return call(*command)

    wire.call = broken  # type: ignore[method-assign]
    assert not lease.name_connection()
    assert killed == [1]
    assert closed_clients(CommandConnection(store.pool), [lease.client.encode()]) == set()
    assert lease.name_connection()
    assert lease.client
    broker.close()


class Pauses(threading.Event):
    """What a session waits for between heartbeats: its connection is closed in the first pause, and none is long."""

    def __init__(self, close: Callable[[], object]) -> None:
        super().__init__()
        self.planned_s: list[float | None] = []
        self._close = close

    def wait(self, timeout: float | None = None) -> bool:
        if not self.planned_s:
            self._close()
        self.planned_s.append(timeout)
        return super().wait(0.01)


def test_a_session_names_its_new_connection_soon(redis_url: str) -> None:
    """Regression: for a whole heartbeat the record named the closed one, and a session has no watchdog process."""
    ground = RedisUnderTest(redis_url)
    session: Any = ground.monitors.session()
    pauses = Pauses(lambda: ground.redis.client_kill_filter(_id=session._lease.client.split()[0]))
    session._ended = pauses
    with session:
        eventually(lambda: len(pauses.planned_s) > 2)
        usual_s = ground.store.options.heartbeat_s
        assert pauses.planned_s[:3] == [usual_s, redis_session._RETRY_PAUSE_S, usual_s]
        assert session._lease.away_since is None
    ground.close()
