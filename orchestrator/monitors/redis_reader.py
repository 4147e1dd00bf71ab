"""Reading monitors from Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from redis.exceptions import ResponseError

from orchestrator.core.stored_values import stored_counts, stored_text
from orchestrator.monitors import commands
from orchestrator.monitors.entry import MonitorEntries, MonitorStats, Record, oldest_records, stats_of
from orchestrator.monitors.monitors import tag_json
from orchestrator.monitors.redis_calls import PAGE, RedisMonitorCalls
from orchestrator.transport.redis.refusals import is_full

#: For classes with a method called ``list``.
Names = list[str]

#: Keys that Redis examines per call of a scan of the whole database.
_KEYS_PER_SCAN = 1000


class RedisMonitorReader(RedisMonitorCalls):
    """Lists and counts monitors, and iterates over what Redis holds of them."""

    def list(
        self, *, owner: str | None = None, target: str | None = None, tag: Any = ..., limit: int = 1000
    ) -> MonitorEntries:
        """Monitors, oldest first."""
        wanted = None if tag is ... else tag_json(tag)
        fitting = (
            record
            for record in self._records(owner, target)
            if (owner is None or owner in (record.owner, record.agent))
            and (target is None or target == record.target or target in record.incarnations)
            and (wanted is None or wanted == record.tag_json)
        )
        found = oldest_records(fitting, limit)
        alive, origins, now_ms = self.living(), self.origins(), self.now_ms()
        return [record.entry(now_ms, origins, alive) for record in found]

    def _records(self, owner: str | None, target: str | None) -> Iterator[Record]:
        keys = self.store.keys
        client: Any = self.store.client
        for name, pages in ((owner, self.records_of_owner), (target, self.records_on_target)):
            if name is not None and "#" in name:
                for ref, raw in pages(name):
                    if record := Record.parse(ref, raw):
                        yield record
                return
        cursor: Any = 0
        while True:
            cursor, page = self._call(partial(client.hscan, keys.monitors, cursor, count=PAGE))
            for ref, raw in page.items():
                if record := Record.parse(ref, raw):
                    yield record
            if not int(cursor):
                return

    def records_of_owner(self, owner: str) -> Iterator[tuple[bytes, bytes]]:
        """Refs and raw records of the monitors in an owner's set; an empty record where there is none."""
        return self._scan_set(self.store.keys.monitors_of(owner), "SSCAN")

    def records_on_target(self, target: str) -> Iterator[tuple[bytes, bytes]]:
        """Refs and raw records of the monitors in a target's set; an empty record where there is none."""
        return self._scan_set(self.store.keys.monitors_on(target), "ZSCAN")

    def _scan_set(self, key: str, scan: Literal["SSCAN", "ZSCAN"]) -> Iterator[tuple[bytes, bytes]]:
        cursor: Any = 0
        while True:
            cursor, *flat = self.run(
                *commands.list_monitors(self.store.keys, key, scan=scan, cursor=cursor, count=PAGE)
            )
            yield from zip(flat[::2], flat[1::2], strict=True)
            if not int(cursor):
                return

    def living(self) -> set[str]:
        """Ids of incarnations and sessions that have a lease."""
        client: Any = self.store.client
        return {stored_text(raw) for raw in self._call(lambda: client.zrange(self.store.keys.leases, 0, -1))}

    def origins(self) -> dict[str, str]:
        """Names of origins -> places in the code."""
        client: Any = self.store.client
        raw = self._call(lambda: client.hgetall(self.store.keys.monitor_origins))
        return {stored_text(name): stored_text(text) for name, text in raw.items()}

    def now_ms(self) -> int:
        """The clock of Redis, in ms since 1970."""
        seconds, micros = self._call(self.store.client.time)
        return int(seconds) * 1000 + int(micros) // 1000

    def stats(self) -> MonitorStats:
        """Numbers of monitors, read in one transaction; on a full server, which refuses it, one after the other."""
        keys = self.store.keys

        def read(*, transaction: bool) -> Any:
            with self.store.client.pipeline(transaction=transaction) as pipe:
                pipe.hgetall(keys.monitor_stats)
                pipe.hlen(keys.monitors)
                return pipe.execute()

        def read_both() -> Any:
            try:
                return read(transaction=True)
            except ResponseError as error:
                if not is_full(error):
                    raise
                return read(transaction=False)

        raw, active = self._call(read_both)
        return stats_of(active, stored_counts(keys.monitor_stats, raw))

    def find_inconsistent(self) -> Iterator[tuple[bytes, bytes]]:
        """Refs and records of monitors that are unreadable or missing in a set; ``(b"", b"")`` after each page."""
        k, cursor = self.store.keys, 0
        while True:
            reply: Any = self.run(*commands.find_inconsistent(k, cursor=cursor, count=PAGE))
            cursor, _, *flat = reply
            yield from zip(flat[::2], flat[1::2], strict=True)
            yield b"", b""
            if not int(cursor):
                return

    def members(self, key: str) -> Names:
        """The members of a set of names."""
        raw: Any = self._call(lambda: self.store.client.smembers(key))
        return sorted(stored_text(name) for name in raw)

    def existing_sets(self, prefix: str) -> Names:
        """The rest of each key that begins with ``prefix``, found by a scan of the whole database."""
        client: Any = self.store.client
        pattern = re.sub(r"([][*?\\])", r"\\\1", prefix) + "*"
        raw = self._call(lambda: set(client.scan_iter(pattern, count=_KEYS_PER_SCAN)))
        return sorted(stored_text(key).removeprefix(prefix) for key in raw)
