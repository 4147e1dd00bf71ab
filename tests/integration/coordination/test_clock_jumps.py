"""Redis' clock jumps: who holds something goes on to hold it, and its death is found as soon as ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import LeaseTaken, Orchestrator
from tests.support.changed_scripts import changed_scripts
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually

OFFSET = "test:clock_offset_ms"

#: Redis' clock, and what the test has set it forward by.
CLOCK = f"""
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(redis.call('GET', '{OFFSET}') or 0)
end
""".encode()


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    with changed_scripts(lambda name, text: CLOCK if name == "clock" else text):
        made = make(redis_url)
        yield made
        close(made)


@pytest.mark.parametrize("jump_s", [300, -300])
def test_nobody_is_deposed_because_the_clock_jumps(orchestrator: Orchestrator, redis_url: str, jump_s: int) -> None:
    store: Any = orchestrator.runtime.store
    other = make(redis_url)
    sweeper = store.sweeper()

    with orchestrator.monitors.session() as session:

        def lease() -> Any:
            return store.client.zscore(store.keys.leases, session.id)

        def session_beats() -> None:
            before = lease()
            eventually(lambda: lease() != before)

        held = [
            orchestrator.lease("month").acquire(),
            orchestrator.election("leader").campaign(),
            orchestrator.semaphore("api", 1).acquire(),
            orchestrator.pool("gpu", ["gpu0"]).checkout(),
        ]
        waits = in_session(other, lambda: other.lease("month", wait_s=60).acquire().fence)
        eventually(lambda: orchestrator.coordination.leases()[0].waiting)
        sweeper.sweep("test")
        for offset_s in (jump_s, 0):
            store.client.set(OFFSET, offset_s * 1000)
            sweeper.sweep("test")
            session_beats()
            sweeper.sweep("test")
            for one in held:
                one.check()
            with pytest.raises(LeaseTaken):
                in_session(other, lambda: other.election("leader").campaign()).result(20)
        assert {death.reason for death in orchestrator.registry.deaths(10)} <= {"drained"}
        month, *_ = held
        assert month.release()
        assert waits.result(20) > month.fence
    close(other)
