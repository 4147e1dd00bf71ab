"""The breaker's scripts do what the pure breaker says, in any order; and the machine finds what is planted in them."""

from __future__ import annotations

import pytest

from orchestrator.core.admission.breaker import Phase
from orchestrator.core.admission.flow_policy import Breaker
from orchestrator.embedded import EmbeddedServer
from tests.support.breaker_machine import ENDINGS, Fuse
from tests.support.driven_machine import drive_machine
from tests.support.planted_faults import Fault, assert_finds, cases


@pytest.mark.timeout(300)
def test_the_scripts_breaker_is_the_pure_one(own_redis_server: EmbeddedServer) -> None:
    Fuse.url = own_redis_server.url
    drive_machine(Fuse, "BREAKER_EXAMPLES", examples=60)


#: In a script: what is right, and what is not.
FAULTS = {
    "a failure too many before it opens": Fault("#b.recent >= b.failures or", "#b.recent > b.failures or"),
    "a failure is never too long ago": Fault(
        "if at > now - b.window_ms and at <= now then recent", "if at <= now then recent"
    ),
    "it is open a thousand times as long": Fault(
        "if too_slow or too_many then turn(b, 'open', now + b.open_ms) end",
        "if too_slow or too_many then turn(b, 'open', now + b.open_ms * 1000) end",
    ),
    "a failure from before it opened opens it again": Fault(
        "if not b or b.phase == 'open' or b.phase == 'isolated' then return end",
        "if not b or b.phase == 'isolated' then return end\n  if b.phase == 'open' then b.phase = 'half_open' end",
    ),
    "what was counted before it closed counts on": Fault(
        "b.phase, b.until_ms, b.recent, b.slices, b.hosts, b.admitted, b.handled = phase, until_ms, {}, {}, {}, 0, 0",
        "b.phase, b.until_ms, b.admitted, b.handled = phase, until_ms, 0, 0",
    ),
    "a probe too many": Fault("math.max(0, b.probes - b.admitted)", "math.max(0, b.probes - b.admitted + 1)"),
    "one handled probe is enough": Fault("elseif b.handled + 1 >= b.probes then", "elseif true then"),
    "handled probes are forgotten when more go": Fault("local handled = b.handled", "local handled = 0"),
    "one host counts as several": Fault("if one.name ~= host and one.at", "if one.at"),
    "what was not the agent's fault counts": Fault("['unknown message'] = true, expired = true", "expired = true"),
    "a rate that is reached is not enough": Fault(
        "failures >= b.failure_rate * ended", "failures > b.failure_rate * ended"
    ),
    "attempts count a slice too long": Fault("if s.number > number - SLICES", "if s.number >= number - SLICES"),
    "a look is a probe": Fault("if not peek then save(b) end", "save(b)"),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=3))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    Fuse.url = own_redis_server.url
    assert_finds(Fuse, FAULTS[fault])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("phase", Phase)
def test_an_attempt_begun_before_ends_in_each_phase(redis_server: EmbeddedServer, phase: Phase, ending: str) -> None:
    Fuse.url = redis_server.url
    fuse = Fuse()
    try:
        fuse.begin(Breaker(2, 1, 1))
        fuse.send(3)
        if phase is not Phase.CLOSED:
            fuse.dead_lettered("m0001", "timeout")
            fuse.tried_again("m0002")
        if phase is Phase.ISOLATED:
            fuse.isolate("by hand")
        if phase is Phase.HALF_OPEN:
            fuse.time_passes(1000)
            fuse.send(1)
        assert fuse.state.phase is phase
        fuse.time_passes(150)
        ENDINGS[ending](fuse, "m0000")
        fuse.both_stand_at_the_same()
        fuse.each_change_was_told_once()
        fuse.send(2)
        fuse.both_stand_at_the_same()
    finally:
        fuse.teardown()
