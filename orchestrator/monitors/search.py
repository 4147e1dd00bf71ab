"""The search for leaked monitors, in small steps, so that the same worker can sweep in between."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from orchestrator.monitors.entry import Record, read_tag
from orchestrator.monitors.leak import Leak, LeakKind

if TYPE_CHECKING:
    from orchestrator.monitors.redis_monitors import RedisMonitors

#: Candidates that one step judges.
_JUDGED_PER_STEP = 200


class LeakSearch:
    """One search through all monitors.

    The scan runs while other processes create and end monitors, so it finds only candidates. One script judges each
    candidate again, so that a healthy monitor is never reported.

    ``everywhere`` also finds sets that nothing names any more, by a scan of the whole database.
    """

    def __init__(self, monitors: RedisMonitors, age_s: float, *, everywhere: bool = False) -> None:
        self._monitors = monitors
        self._age_s = age_s
        self._everywhere = everywhere
        #: Keyed by kind, ref and detail: a scan may return a member twice.
        self._candidates: dict[tuple[LeakKind, int | str, str], Leak] = {}
        self._proven: list[Leak] = []
        self._steps = self._search()
        self._done = False

    def go_on(self, for_s: float) -> bool:
        """Search for about ``for_s`` seconds; returns whether the search is complete.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        until = monotonic() + for_s
        while not self._done:
            self._done = next(self._steps, None) is None
            if monotonic() >= until:
                break
        return self._done

    def leaks(self) -> list[Leak]:
        """The candidates that proved to be leaks."""
        return self._proven

    def _search(self) -> Iterator[bool]:
        monitors = self._monitors
        keys = monitors.store.keys
        self._now_ms, self._origins = monitors.now_ms(), monitors.origins()
        owners, targets = monitors.members(keys.monitor_owners), monitors.members(keys.monitor_targets)
        if self._everywhere:
            owners = sorted({*owners, *monitors.existing_sets(keys.monitors_of(""))})
            targets = sorted({*targets, *monitors.existing_sets(keys.monitors_on(""))})
        for owner in owners:
            yield from self._owner(owner)
        for target in targets:
            yield from self._target(target)
        for ref, raw in monitors.find_inconsistent():
            if ref:
                self._half_written(ref, raw, "unreadable, or not in all the sets that should name it")
            else:
                yield True
        candidates = list(self._candidates.values())
        for at in range(0, len(candidates), _JUDGED_PER_STEP):
            self._proven += monitors.judge(candidates[at : at + _JUDGED_PER_STEP], age_s=self._age_s)
            yield True

    def _owner(self, owner: str) -> Iterator[bool]:
        monitors = self._monitors
        alive = monitors.living()
        firsts: dict[tuple[str, str], Record] = {}
        named = f"monitors-of:{owner}"
        records = []
        for number, (ref, raw) in enumerate(monitors.records_of_owner(owner)):
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
                self._add_candidate(LeakKind.OWNER_GONE, record, f"{owner} has no lease")
            elif not alive.intersection(record.incarnations):
                self._add_candidate(LeakKind.TARGET_GONE, record, f"{', '.join(record.incarnations)}: no lease")
            elif first.ref != record.ref:
                detail = f"monitor {first.ref} has the same owner, target and tag"
                self._add_candidate(LeakKind.DUPLICATE, record, detail, str(first.ref))
            elif self._now_ms - record.created_ms >= self._age_s * 1000:
                self._add_candidate(LeakKind.OLD, record, f"older than {self._age_s:g} s")
        yield True

    def _target(self, target: str) -> Iterator[bool]:
        monitors = self._monitors
        named = f"monitors-on:{target}"
        for number, (ref, raw) in enumerate(monitors.records_on_target(target)):
            record = Record.parse(ref, raw)
            if record is None or target not in record.incarnations:
                self._half_written(ref, raw, f"{named} names it, and it is not there", named)
            if not number % 500:
                yield True
        yield True

    def _add_candidate(self, kind: LeakKind, record: Record, detail: str, more: str = "", field: str = "") -> None:
        self._candidates[kind, field or record.ref, more] = Leak(
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
            self._add_candidate(LeakKind.HALF_WRITTEN, record, detail, named)
            return
        ref = int(raw_ref) if raw_ref.isdigit() else 0
        nothing = Record(ref, "", "", self._now_ms, '""', "", "", ())
        field = "" if ref else raw_ref.decode("utf-8", "replace")
        self._add_candidate(LeakKind.HALF_WRITTEN, nothing, detail, named, field)
