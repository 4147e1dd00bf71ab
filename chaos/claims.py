"""Who leads the singleton, and who has claimed its messages: looked at in one step, again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaos.contended import CHIEF, SINGLETON
from orchestrator.transport.store import Store

_LOOK = """
local time = redis.call('TIME')
local seen = {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('HGET', KEYS[1], 'o') or ''}
for place = 2, #KEYS do
  local pending = redis.pcall('XPENDING', KEYS[place], ARGV[1])
  for _, consumer in ipairs(not pending.err and pending[4] or {}) do seen[#seen + 1] = consumer[1] end
end
return seen
"""


@dataclass(frozen=True, slots=True)
class ClaimsSeen:
    """Who led at a time, or '' if nobody did, and who had claimed messages that were not settled."""

    at_ms: int
    leader: str
    claimants: tuple[str, ...]


def look_at_claims(store: Store) -> ClaimsSeen:
    """How it is now."""
    client: Any = store.client
    streams = [store.keys.stream(CHIEF, level) for level in store.levels]
    keys = [f"{store.keys.root}named:election:{SINGLETON}", *streams]
    at_ms, leader, *claimants = client.eval(_LOOK, len(keys), *keys, store.group)
    return ClaimsSeen(int(at_ms), leader.decode(), tuple(sorted({raw.decode() for raw in claimants})))
