"""Compares what holders did, and what the witness saw of them, with Redis' own record of grants. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.contended import PERMITS, RESOURCES
from chaos.lives import died_ms
from chaos.redis_record import Recorded
from chaos.witness import Row

#: Tolerance for the clocks of two servers on one machine, and for what was under way, in ms.
_SKEW_MS = 50

#: How many may hold at a time, by kind.
_MOST = {"lease": 1, "election": 1, "semaphore": PERMITS, "pool": len(RESOURCES)}

#: A request that Redis does not answer may leave the line: so long after Redis was killed, at most, in ms.
_AWAY_MS = 10_000

#: For how long a strike explains what its victim does too late, in ms: the longest is thirteen seconds.
_STRUCK_MS = 30_000

#: Kinds of strikes that no worker of the load is a victim of, as they begin.
_NO_WORKERS = ("contender", "manager", "beat")


@dataclass(slots=True)
class Grant:
    """A grant on Redis' record: its place there, and that of its end."""

    name: str
    owner: str
    fence: int
    place: int
    at_ms: int
    end_place: int | None = None
    ended_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LeasesVerdict:
    """The figures and the violations of leases, elections, semaphores and pools."""

    grants: int = 0
    terms: int = 0
    #: Writes that the register refused: their holders had been stopped for too long, or declared dead.
    refused: int = 0
    violations: tuple[str, ...] = ()


@dataclass(slots=True)
class Grants:
    """All grants on the record, and what is wrong with it."""

    by_fence: dict[tuple[str, int], Grant] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, record: Sequence[Recorded]) -> Grants:
        """Check the record as it goes: tokens grow, and nothing is held by more than may hold it."""
        grants = cls()
        last: dict[str, int] = defaultdict(int)
        held: dict[str, list[Grant]] = defaultdict(list)
        for place, event in enumerate(record):
            if event.kind == "lease_granted":
                kind, tail, owner, fence = event.fields
                name = f"{kind}:{tail}"
                grant = Grant(name, owner, int(fence), place, event.at_ms)
                if grant.fence <= last[name]:
                    grants.problems.append(f"{name}: token {grant.fence} was granted after {last[name]}")
                last[name] = max(last[name], grant.fence)
                held[name].append(grant)
                grants.by_fence[name, grant.fence] = grant
                if len(held[name]) > _MOST.get(kind, 1):
                    who = ", ".join(f"{one.owner} ({one.fence})" for one in held[name])
                    grants.problems.append(f"{name}: held by {len(held[name])} at once: {who}")
            elif event.kind == "lease_ended":
                kind, tail, owner, fence, reason = event.fields
                name = f"{kind}:{tail}"
                found = grants.by_fence.get((name, int(fence)))
                if found is None or found.end_place is not None or found.owner != owner:
                    grants.problems.append(f"{name}: ended for {owner} ({fence}), who did not hold it")
                    continue
                found.end_place, found.ended_ms, found.reason = place, event.at_ms, reason
                held[name].remove(found)
        for name, left in held.items():
            grants.problems += [f"{name}: held by {one.owner} ({one.fence}) at the end" for one in left]
        return grants


def judge_leases(rows: Sequence[Row], record: Sequence[Recorded]) -> LeasesVerdict:
    """The verdict on all names."""
    grants = Grants.read(record)
    stops = Stops(rows)
    violations = [
        *grants.problems,
        *_holder_problems(rows, grants),
        *_resource_problems(rows, grants),
        *_register_problems(rows, grants, stops),
        *_line_problems(rows, stops),
    ]
    return LeasesVerdict(
        grants=len(grants.by_fence),
        terms=sum(name.startswith("election:") for name, _ in grants.by_fence),
        refused=sum(row.what == "wrote" and not row.note["accepted"] for row in rows),
        violations=tuple(violations),
    )


class Stops:
    """When processes were struck, and Redis was."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_pid: dict[int, list[int]] = defaultdict(list)
        self._workers: list[int] = []
        self._redis: list[int] = []
        for row in rows:
            if row.what == "strike" and row.note.get("kind") == "redis":
                self._redis.append(row.at_ms)
            elif row.what == "strike":
                # On a busy machine a death is on record before the strike is written down.
                if not str(row.note.get("kind")).startswith(_NO_WORKERS):
                    self._workers.append(died_ms(row))
                for pid in {row.pid, *row.note.get("pids", ())}:
                    self._by_pid[pid].append(died_ms(row))
            elif row.what == "start" and row.note.get("poison"):
                self._workers.append(row.at_ms)
                self._by_pid[row.pid].append(row.at_ms)

    def was_struck(self, row: Row, until_ms: int) -> bool:
        """Whether the process of this row, or the one that it belongs to, was struck shortly before that time."""
        struck = (*self._by_pid.get(row.pid, ()), *self._by_pid.get(row.parent_pid, ()))
        return any(until_ms - _STRUCK_MS <= at_ms <= until_ms for at_ms in struck)

    def was_a_worker_struck(self, since_ms: int, until_ms: int) -> bool:
        """Whether any worker of the load was struck in between, or shortly before."""
        return any(since_ms - _STRUCK_MS <= at_ms <= until_ms for at_ms in self._workers)

    def redis_was_away(self, since_ms: int, until_ms: int) -> bool:
        """Whether Redis may have been away in between."""
        return any(since_ms - _AWAY_MS <= at_ms <= until_ms for at_ms in self._redis)


def _holder_problems(rows: Sequence[Row], grants: Grants) -> Iterator[str]:
    """Whoever believes to hold something was granted it, and is told when that has ended."""
    for row in rows:
        if row.what not in ("held", "checked", "granted"):
            continue
        name, fence = str(row.note["name"]), int(row.note["fence"])
        grant = grants.by_fence.get((name, fence))
        if grant is None:
            yield f"{name}: token {fence} is held by {row.note.get('owner')}, and not on Redis' record"
        elif row.what == "held" and grant.owner != row.note["owner"]:
            yield f"{name}: token {fence} is held by {row.note['owner']}, and was granted to {grant.owner}"
        elif row.what == "checked" and row.note["held"] and grant.ended_ms is not None:
            late_ms = int(row.note["asked_ms"]) - grant.ended_ms
            if late_ms > _SKEW_MS:
                yield f"{name}: check() found token {fence} held, {late_ms} ms after it had ended"


def _resource_problems(rows: Sequence[Row], grants: Grants) -> Iterator[str]:
    """No resource is held twice at a time."""
    held: dict[str, dict[int, Grant]] = defaultdict(dict)
    for row in rows:
        grant = grants.by_fence.get((str(row.note.get("name")), int(row.note.get("fence", 0))))
        if row.what == "held" and row.note.get("resource") and grant is not None:
            held[f"{grant.name} {row.note['resource']}"][grant.fence] = grant
    for resource, by_fence in held.items():
        in_order = sorted(by_fence.values(), key=lambda grant: grant.place)
        for before, after in pairwise(in_order):
            if before.end_place is None or before.end_place > after.place:
                yield f"{resource}: held by {before.owner} ({before.fence}) and {after.owner} ({after.fence}) at once"


def _register_problems(rows: Sequence[Row], grants: Grants, stops: Stops) -> Iterator[str]:
    """The register has accepted tokens in order only; who wrote too late had been stopped, or declared dead."""
    highest: dict[str, int] = defaultdict(int)
    writers: dict[tuple[str, int], str] = {}
    for row in rows:
        if row.what != "wrote":
            continue
        register, fence, owner = str(row.note["register"]), int(row.note["fence"]), str(row.note["owner"])
        if writers.setdefault((register, fence), owner) != owner:
            yield f"{register}: {owner} and {writers[register, fence]} wrote with the same token {fence}"
        if row.note["accepted"]:
            if fence < highest[register]:
                yield f"{register}: accepted token {fence} after {highest[register]}"
            highest[register] = max(highest[register], fence)
        else:
            since_ms = _granted_ms(register, fence, grants)
            if not stops.was_struck(row, row.at_ms) and not stops.redis_was_away(since_ms, row.at_ms):
                yield f"{register}: {owner}, never struck, wrote with token {fence} after {highest[register]}"


def _granted_ms(register: str, fence: int, grants: Grants) -> int:
    grant = grants.by_fence.get((register.rpartition(":")[0], fence))
    return 0 if grant is None else grant.at_ms


def _line_problems(rows: Sequence[Row], stops: Stops) -> Iterator[str]:
    """Grants come in order of arrival: who was known to be in line is not overtaken by who asked after that."""
    asked: dict[str, dict[str, int]] = defaultdict(dict)
    in_line: dict[str, tuple[int, Row]] = {}
    granted: dict[str, dict[str, tuple[int, Row]]] = defaultdict(dict)
    for place, row in enumerate(rows):
        if row.what == "requests":
            asked[str(row.note["name"])][str(row.note["token"])] = place
        elif row.what == "in line":
            in_line[str(row.note["token"])] = place, row
        elif row.what == "granted":
            granted[str(row.note["name"])].setdefault(str(row.note["token"]), (int(row.note["fence"]), row))
    for name, by_token in granted.items():
        lowest: list[tuple[int, int]] = _lowest_fences(asked[name], by_token)
        for token, (fence, row) in by_token.items():
            if token not in in_line:
                continue
            place, stood = in_line[token]
            overtaken_by = next((after for at, after in lowest if at > place), None)
            if overtaken_by is None or overtaken_by >= fence:
                continue
            # Who does not ask again, because it is stopped or Redis is away, may lose its place.
            if not stops.was_struck(row, row.at_ms) and not stops.redis_was_away(stood.at_ms, row.at_ms):
                yield f"{name}: request {token} ({fence}) was overtaken by a later one ({overtaken_by})"


def _lowest_fences(asked: Mapping[str, int], granted: Mapping[str, tuple[int, Row]]) -> list[tuple[int, int]]:
    """For each request's place among the rows, in order: the lowest token of those that asked there or later."""
    places = sorted(((asked[token], fence) for token, (fence, _) in granted.items() if token in asked), reverse=True)
    lowest, found = float("inf"), []
    for place, fence in places:
        lowest = min(lowest, fence)
        found.append((place, int(lowest)))
    return found[::-1]
