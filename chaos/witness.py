"""The independent ledger: a Redis of its own, never killed, that saw every send and every execution.

One stream; Redis gives each row its time, so all times are by one clock.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable

#: What it means that the broker is being killed.
AWAY = (OperationalError, RedisError, BrokerUnavailable, OSError)

#: Names the witness to the processes of a run.
VARIABLE = "CHAOS_WITNESS_URL"

_STREAM = "chaos"
_PAGE = 5000

#: A register that refuses a token lower than one that it has accepted; it writes what it did into the stream.
_WRITE_REGISTER = """
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
local accepted = tonumber(ARGV[2]) >= last
if accepted then redis.call('SET', KEYS[2], ARGV[2]) end
local row = {register = ARGV[1], fence = ARGV[2], owner = ARGV[3], accepted = accepted}
redis.call('XADD', KEYS[1], '*', 'w', 'wrote', 'p', ARGV[4], 'pp', ARGV[5], 'd', cjson.encode(row))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One event.

    ``what`` is ``intent``, ``accepted`` or ``uncertain`` (the sender), ``claimed`` (a worker), ``start``, ``fail`` or
    ``done`` (an execution), ``strike``, ``fell``, ``ended``, ``continued``, ``up`` or ``serves``, which a worker does
    from when it has a lease (by the run); ``starting``, ``started``, ``asked`` or ``acted`` (the
    starter of workflows); ``begun``, ``broke`` or ``over`` (an execution of a step). The judges of leases, terms
    and asks name the rows that they read.
    """

    at_ms: int
    what: str
    id: str = ""
    attempt: int = 0
    pid: int = 0
    parent_pid: int = 0
    node: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)


class Witness:
    """Writes and reads rows."""

    def __init__(self, url: str) -> None:
        # A process that cannot reach the witness must fail.
        self._redis = redis.Redis.from_url(url, socket_timeout=30)

    def write(
        self, what: str, message_id: str = "", *, attempt: int = 0, node: str = "", pid: int = 0, **note: Any
    ) -> int:
        """Write one row; returns its time."""
        fields: dict[str, str | int] = {"w": what, "p": pid or os.getpid(), "pp": os.getppid()}
        if message_id:
            fields.update(i=message_id, a=attempt)
        if node:
            fields["n"] = node
        if note:
            fields["d"] = json.dumps(note)
        entry: Any = self._redis.xadd(_STREAM, fields)  # type: ignore[arg-type]
        return int(entry.split(b"-")[0])

    def write_register(self, register: str, fence: int, owner: str) -> None:
        """Write to a register that checks fencing tokens, and a row about it: one step."""
        keys = [_STREAM, f"register:{register}"]
        self._redis.eval(_WRITE_REGISTER, 2, *keys, register, fence, owner, os.getpid(), os.getppid())

    def now_ms(self) -> int:
        """The witness' clock."""
        answer: Any = self._redis.time()
        return int(answer[0]) * 1000 + int(answer[1]) // 1000

    def rows(self) -> list[Row]:
        """All rows, in order."""
        rows: list[Row] = []
        last = "-"
        while page := self._page(last):
            rows.extend(_row(entry, fields) for entry, fields in page)
            last = "(" + page[-1][0].decode()
        return rows

    def _page(self, after: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        page: Any = self._redis.xrange(_STREAM, min=after, count=_PAGE)
        return list(page)


def _row(entry: bytes, fields: Mapping[bytes, bytes]) -> Row:
    return Row(
        at_ms=int(entry.split(b"-")[0]),
        what=fields[b"w"].decode(),
        id=fields.get(b"i", b"").decode(),
        attempt=int(fields.get(b"a", b"0")),
        pid=int(fields.get(b"p", b"0")),
        parent_pid=int(fields.get(b"pp", b"0")),
        node=fields.get(b"n", b"").decode(),
        note=json.loads(fields.get(b"d", b"{}")),
    )


_mine: dict[int, Witness] = {}
_lock = threading.Lock()


def witness() -> Witness:
    """This process' witness. A forked child gets one of its own."""
    with _lock:
        known = _mine.get(os.getpid())
        if known is None:
            known = _mine[os.getpid()] = Witness(os.environ[VARIABLE])
        return known
