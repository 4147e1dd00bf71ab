"""Redis' own record of leases and asks: the events of the scripts, each written by the step that it belongs to.

A script hands its events to the process that has called it, and they are lost if that is killed. Under chaos the
scripts write them into a stream as well. Its order is that of Redis, and it is in the append-only file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from orchestrator.transport.redis import scripts

#: The stream.
RECORD = "chaos:record"

#: The events that are recorded.
_KINDS = (
    *("lease_granted", "lease_ended", "replied", "fell_back", "voted", "ballot_decided"),
    *("barrier_tripped", "barrier_broken", "barrier_shrunk", "barrier_sent"),
)

_RECORDED = ", ".join(f"{kind} = true" for kind in _KINDS)

#: Writes an event: its kind, and its values.
_WRITE = f"""
do
  local event = {{%s}}
  if ({{{_RECORDED}}})[event[1]] then
    local entry = {{'XADD', '{RECORD}', '*', 'kind', event[1]}}
    for place = 2, #event do
      local value = event[place]
      entry[#entry + 1] = place
      entry[#entry + 1] = type(value) == 'number' and string.format('%%.0f', value) or tostring(value)
    end
    redis.call(unpack(entry))
  end
end
"""

#: What is put behind the part of a script that has the events which travel with its reply.
_PART = "script_events"
_EMITTED = f"""
do
  local emit = emit_event
  emit_event = function(...)
    emit(...)
    {_WRITE % "..."}
  end
end
"""

#: An event that the reply says, so that it need not travel.
_UNSENT = re.compile(r"^ *--- @event (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event: ``lease_granted`` (kind, name, owner, fence), ``lease_ended`` (the same, and the reason), ``replied``
    (asker, ask, how it ended), ``fell_back`` (agent, delivery, ask, how it ended), ``voted`` (ballot, message, voter,
    vote, why), ``ballot_decided`` (ballot, message, accepted or rejected, how, and weights), or of a barrier and its
    generation ``barrier_tripped`` (parties), ``barrier_broken`` (reason, party, missing), ``barrier_shrunk`` (party,
    reason) and ``barrier_sent`` (party, agent, delivery)."""

    at_ms: int
    kind: str
    fields: tuple[str, ...]


def install() -> None:
    """Have the scripts of this process record their events."""
    read = scripts._read

    def read_recording(folders: list[Traversable], name: str) -> bytes:
        part = _UNSENT.sub(lambda found: _WRITE % found[1], read(folders, name).decode())
        return (part + _EMITTED if name == _PART else part).encode()

    scripts._read = read_recording
    scripts.script_of.cache_clear()


def read_record(client: Any) -> list[Recorded]:
    """The record of a run."""
    return [_event(entry, fields) for entry, fields in client.xrange(RECORD)]


def _event(entry: bytes, fields: Mapping[bytes, bytes]) -> Recorded:
    places = sorted((int(place), value.decode()) for place, value in fields.items() if place != b"kind")
    return Recorded(int(entry.split(b"-")[0]), fields[b"kind"].decode(), tuple(value for _, value in places))
