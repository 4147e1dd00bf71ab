"""Redis' own record of leases and asks: the events of the scripts, each written by the step that it belongs to.

A script hands its events to the process that has called it, and they are lost if that is killed. Under chaos the
scripts write them into a stream as well. Its order is that of Redis, and it is in the append-only file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from orchestrator.transport.redis import scripts

#: The stream.
RECORD = "chaos:record"

#: The events that are recorded; ends of leases are where their script makes them (below).
_KINDS = (
    *("lease_granted", "replied", "fell_back", "voted", "ballot_decided"),
    *("barrier_tripped", "barrier_broken", "barrier_shrunk", "barrier_sent"),
)

_PART = "script_events"
_RECORDING = """
do
  local emit, recorded = emit_event, {%s}
  emit_event = function(kind, ...)
    emit(kind, ...)
    if not recorded[kind] then return end
    local entry = {'XADD', '%s', '*', 'kind', kind}
    for place, field in ipairs({...}) do
      entry[#entry + 1], entry[#entry + 2] = place, tostring(field)
    end
    redis.call(unpack(entry))
  end
end
"""

#: Grants and ends whose event the script leaves to its caller: by file, the text before which they are recorded.
_SHORT_WAYS = {
    "acquire": (
        ("return {'granted', fence, now, '', 1}", "'lease_granted', 1, kind, 2, name, 3, owner, 4, fence"),
        (
            "return with_events({'granted', new.f, new.s, new.r, 1})",
            "'lease_granted', 1, kind, 2, name, 3, owner, 4, string.format('%.0f', new.f)",
        ),
    ),
    "release": (
        (
            "return known[4] .. ' ' .. known[3]",
            "'lease_ended', 1, kind, 2, name, 3, known[3], 4, known[4], 5, reason",
        ),
    ),
    "named_leases": (
        (
            "if work.single then\n    redis.call('HDEL', work.state, 'k', 'o')",
            "'lease_ended', 1, work.kind, 2, work.name, 3, holder.o, 4, string.format('%.0f', holder.f), 5, reason",
        ),
    ),
}


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
    text = _RECORDING % (", ".join(f"{kind} = true" for kind in _KINDS), RECORD)

    def read_recording(folders: list[Traversable], name: str) -> bytes:
        part = read(folders, name)
        for end, fields in _SHORT_WAYS.get(name, ()):
            before, found, after = part.decode().partition(end)
            if not found:
                raise LookupError(f"{name}.lua has no {end!r} any more")
            part = f"{before}redis.call('XADD', '{RECORD}', '*', 'kind', {fields})\n    {end}{after}".encode()
        return part + text.encode() if name == _PART else part

    scripts._read = read_recording
    scripts.script_of.cache_clear()


def read_record(client: Any) -> list[Recorded]:
    """The record of a run."""
    return [_event(entry, fields) for entry, fields in client.xrange(RECORD)]


def _event(entry: bytes, fields: Mapping[bytes, bytes]) -> Recorded:
    places = sorted((int(place), value.decode()) for place, value in fields.items() if place != b"kind")
    return Recorded(int(entry.split(b"-")[0]), fields[b"kind"].decode(), tuple(value for _, value in places))
