"""Looking for leaked monitors, a little at a time: nobody who also sweeps may be kept from it for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from orchestrator.monitors.entry import Record, read_tag
from orchestrator.monitors.leak import Leak, LeakKind

if TYPE_CHECKING:
    from orchestrator.monitors.stored import StoredMonitors


class LeakSearch:
    """One search through all monitors.

    What looks like a leak while others go on making and ending monitors is a suspect only: each is judged once more,
    in one step with nothing in between. So a healthy monitor is never reported.
    """

    def __init__(self, monitors: StoredMonitors, age_s: float) -> None:
        self._monitors = monitors
        self._age_s = age_s
        self._suspects: list[Leak] = []
        self._steps = self._look()
        self._done = False

    def go_on(self, for_s: float) -> bool:
        """Look for about so long; returns whether everything was looked through.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        until = monotonic() + for_s
        while not self._done and monotonic() < until:
            self._done = next(self._steps, None) is None
        return self._done

    def leaks(self) -> list[Leak]:
        """The suspects that are leaks, and not mended meanwhile.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        once = {(leak.kind, leak.field or leak.ref, leak.more): leak for leak in self._suspects}
        return self._monitors.judge(list(once.values()), age_s=self._age_s)

    def _look(self) -> Iterator[bool]:
        m = self._monitors
        k = m.store.keys
        self._now_ms, self._origins = m.now_ms(), m.origins()
        for owner in m.parties(k.monitor_owners):
            yield from self._owner(owner)
        for target in m.parties(k.monitor_targets):
            yield from self._target(target)
        for ref, raw in m.torn():
            if ref:
                self._half_written(ref, raw, "unreadable, or not in all the sets that should name it")
            else:
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
            if not number % 500:
                yield True
        for record in sorted(records, key=lambda r: r.ref):
            first = firsts.setdefault((record.target, record.tag_json), record)
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

    def _suspect(self, kind: LeakKind, record: Record, detail: str, more: str = "") -> None:
        self._suspects.append(
            Leak(
                kind=kind,
                ref=record.ref,
                owner=record.owner,
                target=record.target,
                tag=read_tag(record.tag_json),
                age_s=max(0.0, (self._now_ms - record.created_ms) / 1000),
                origin=self._origins.get(record.origin, ""),
                detail=detail,
                more=more,
            )
        )

    def _half_written(self, raw_ref: bytes, raw: Any, detail: str, named: str = "") -> None:
        record = Record.parse(raw_ref, raw) if raw else None
        if record is not None:
            self._suspect(LeakKind.HALF_WRITTEN, record, detail, named)
            return
        ref = int(raw_ref) if raw_ref.isdigit() else 0
        nothing = Record(ref, "", "", self._now_ms, '""', "", "", ())
        field = "" if ref else raw_ref.decode("utf-8", "replace")
        self._suspect(LeakKind.HALF_WRITTEN, nothing, detail, named)
        self._suspects[-1] = replace(self._suspects[-1], age_s=0.0, field=field)
