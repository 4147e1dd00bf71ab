"""Compares the fires that the witness saw with the schedules' own ledger. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chaos.witness import Row
from orchestrator.core.schedules.state import Counts


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule's own account at the end of the run."""

    id: str
    every_ms: int
    anchor_ms: int
    #: The first nominal time that nothing was decided about.
    next_ms: int
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class SchedulesVerdict:
    """The figures and the violations of the schedules."""

    schedules: int
    due: int
    fired: int
    coalesced: int
    violations: tuple[str, ...]


def judge_schedules(
    rows: Sequence[Row], records: Sequence[ScheduleRecord], ledger: Mapping[str, int]
) -> SchedulesVerdict:
    """The verdict on the schedules: an independent recount must agree with the ledger of fires."""
    seen: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        if row.what == "tick":
            seen[str(row.note["schedule"])][int(row.note["nominal_ms"])].add(str(row.note["delivery"]))
    violations = []
    for record in records:
        violations += _problems(record, seen[record.id])
    total = {name: sum(getattr(record.counts, name) for record in records) for name in ("due", "fired", "coalesced")}
    for name, count in total.items():
        if ledger.get(name, 0) != count:
            violations.append(f"schedules: the ledger says {ledger.get(name, 0)} {name}, the schedules {count}")
    return SchedulesVerdict(len(records), total["due"], total["fired"], total["coalesced"], tuple(violations))


def _problems(record: ScheduleRecord, seen: Mapping[int, set[str]]) -> list[str]:
    problems = [
        f"schedule {record.id}: {nominal_ms} was fired under {len(ids)} ids"
        for nominal_ms, ids in seen.items()
        if len(ids) > 1
    ]
    off = [nominal_ms for nominal_ms in seen if (nominal_ms - record.anchor_ms) % record.every_ms]
    if off:
        problems.append(f"schedule {record.id}: fired at {off}, which are no times of its own")
    # The first nominal time is one interval after the anchor.
    due = (record.next_ms - record.anchor_ms) // record.every_ms - 1
    if record.counts.due != due:
        problems.append(f"schedule {record.id}: {due} times have passed, its ledger says {record.counts.due}")
    if record.counts.fired != len(seen):
        problems.append(f"schedule {record.id}: {len(seen)} fires were seen, its ledger says {record.counts.fired}")
    return problems
