"""Looking for leaked monitors, a little at a time: nobody who also sweeps may be kept from it for long."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from orchestrator.monitors.entry import Record, read_tag
from orchestrator.monitors.leak import Leak, LeakKind

if TYPE_CHECKING:
    from orchestrator.monitors.redis_monitors import RedisMonitors

#: Suspects that are judged before somebody else gets a turn.
_JUDGED = 200


class LeakSearch:
    """One search through all monitors.

    What looks like a leak while others go on making and ending monitors is a suspect only: each is judged once more,
    in one step with nothing in between. So a healthy monitor is never reported.

    ``everywhere`` also finds sets that nothing names any more. For that it goes through all the keys there are.
    """

    def __init__(self, monitors: RedisMonitors, age_s: float, *, everywhere: bool = False) -> None:
        self._monitors = monitors
        self._age_s = age_s
        self._everywhere = everywhere
        #: By what tells two of them apart: a set may name a member twice while it is read.
        self._suspects: dict[tuple[LeakKind, int | str, str], Leak] = {}
        self._proven: list[Leak] = []
        self._steps = self._look()
        self._done = False

    def go_on(self, for_s: float) -> bool:
        """Look for about so long; returns whether everything was looked through, and every suspect judged.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        until = monotonic() + for_s
        while not self._done:
            self._done = next(self._steps, None) is None
            if monotonic() >= until:
                break
        return self._done

    def leaks(self) -> list[Leak]:
        """The suspects that were found to be leaks."""
        return self._proven

    def _look(self) -> Iterator[bool]:
        m = self._monitors
        k = m.store.keys
        self._now_ms, self._origins = m.now_ms(), m.origins()
        owners, targets = m.parties(k.monitor_owners), m.parties(k.monitor_targets)
        if self._everywhere:
            owners = sorted({*owners, *m.sets_there(k.monitors_of(""))})
            targets = sorted({*targets, *m.sets_there(k.monitors_on(""))})
        for owner in owners:
            yield from self._owner(owner)
        for target in targets:
            yield from self._target(target)
        for ref, raw in m.torn():
            if ref:
                self._half_written(ref, raw, "unreadable, or not in all the sets that should name it")
            else:
                yield True
        suspects = list(self._suspects.values())
        for at in range(0, len(suspects), _JUDGED):
            self._proven += m.judge(suspects[at : at + _JUDGED], age_s=self._age_s)
            yield True

    def _owner(self, owner: str) -> Iterator[bool]:
        m = self._monitors
        alive = m.living()
        firsts: dict[tuple[str, str], Record] = {}
        named = f"monitors-of:{owner}"
        records = []
        for number, (ref, raw) in enumerate(m.owned(owner)):
            record = Record.parse(ref, raw)
            if record is None or record.owner != owner:
                self._half_written(ref, raw, f"{named} names it, and it is not there", named)
            else:
                records.append(record)
                key = record.target, record.tag_json
                known = firsts.setdefault(key, record)
                if record.ref < known.ref:
                    firsts[key] = record
            if not number % 500:
                yield True
        for number, record in enumerate(records):
            if not number % 500:
                yield True
            first = firsts[record.target, record.tag_json]
            if owner not in alive:
                self._suspect(LeakKind.OWNER_GONE, record, f"{owner} has no lease")
            elif not alive.intersection(record.incarnations):
                self._suspect(LeakKind.TARGET_GONE, record, f"{', '.join(record.incarnations)}: no lease")
            elif first.ref != record.ref:
                detail = f"monitor {first.ref} has the same owner, target and tag"
                self._suspect(LeakKind.DUPLICATE, record, detail, str(first.ref))
            elif self._now_ms - record.created_ms >= self._age_s * 1000:
                self._suspect(LeakKind.OLD, record, f"older than {self._age_s:g} s")
        yield True

    def _target(self, target: str) -> Iterator[bool]:
        m = self._monitors
        named = f"monitors-on:{target}"
        for number, (ref, raw) in enumerate(m.monitoring(target)):
            record = Record.parse(ref, raw)
            if record is None or target not in record.incarnations:
                self._half_written(ref, raw, f"{named} names it, and it is not there", named)
            if not number % 500:
                yield True
        yield True

    def _suspect(self, kind: LeakKind, record: Record, detail: str, more: str = "", field: str = "") -> None:
        self._suspects[kind, field or record.ref, more] = Leak(
            kind=kind,
            ref=record.ref,
            owner=record.owner,
            target=record.target,
            tag=read_tag(record.tag_json),
            age_s=max(0.0, (self._now_ms - record.created_ms) / 1000),
            origin=self._origins.get(record.origin, ""),
            detail=detail,
            more=more,
            field=field,
        )

    def _half_written(self, raw_ref: bytes, raw: Any, detail: str, named: str = "") -> None:
        record = Record.parse(raw_ref, raw) if raw else None
        if record is not None:
            self._suspect(LeakKind.HALF_WRITTEN, record, detail, named)
            return
        ref = int(raw_ref) if raw_ref.isdigit() else 0
        nothing = Record(ref, "", "", self._now_ms, '""', "", "", ())
        field = "" if ref else raw_ref.decode("utf-8", "replace")
        self._suspect(LeakKind.HALF_WRITTEN, nothing, detail, named, field)
