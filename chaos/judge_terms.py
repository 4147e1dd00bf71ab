"""Compares what was seen of the singleton and its messages with Redis' own record of terms. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.claims import ClaimsSeen
from chaos.contended import SINGLETON
from chaos.judge_leases import Grant, Grants, Stops
from chaos.redis_record import Recorded
from chaos.witness import Row

#: How late after the end of a term a message that was claimed in it may begin, in ms.
_LAG_MS = 1000

_NAME = f"election:{SINGLETON}"


def judge_terms(rows: Sequence[Row], record: Sequence[Recorded], claims: Sequence[ClaimsSeen]) -> list[str]:
    """What is wrong; that terms grow and do not overlap is the judge of leases' business."""
    terms = {grant.fence: grant for (name, _), grant in Grants.read(record).by_fence.items() if name == _NAME}
    return [*_claim_problems(claims), *_elected_problems(rows, terms), *_command_problems(rows, terms)]


def _claim_problems(claims: Sequence[ClaimsSeen]) -> Iterator[str]:
    """While one leads, nobody else has claimed messages that are not settled."""
    for seen in claims:
        others = [one for one in seen.claimants if one != seen.leader]
        if seen.leader and others:
            yield f"singleton: while {seen.leader} led, {', '.join(others)} had claimed messages (at {seen.at_ms})"


def _elected_problems(rows: Sequence[Row], terms: dict[int, Grant]) -> Iterator[str]:
    for row in rows:
        if row.what == "elected":
            term = terms.get(int(row.note["number"]))
            if term is None or term.owner != row.note["leader"]:
                yield f"singleton: elected in term {row.note['number']}: {row.note['leader']}, which is not on record"


def _command_problems(rows: Sequence[Row], terms: dict[int, Grant]) -> Iterator[str]:
    """A message begins in the term of who runs it, and not in an earlier term once it has begun in a later one."""
    stops = Stops(rows)
    last: dict[str, int] = {}
    by_owner: dict[str, list[Grant]] = {}
    for term in terms.values():
        by_owner.setdefault(term.owner, []).append(term)
    for row in rows:
        if row.what != "commanded":
            continue
        delivery, by = str(row.note["delivery"]), str(row.note["by"])
        mine = [term for term in by_owner.get(by, ()) if term.at_ms <= row.at_ms + _LAG_MS]
        if not mine:
            yield f"singleton: {by} ran {delivery}, and never led"
            continue
        term = max(mine, key=lambda one: one.fence)
        struck = stops.was_struck(row, row.at_ms) or stops.redis_was_away(term.at_ms, row.at_ms)
        if term.ended_ms is not None and row.at_ms > term.ended_ms + _LAG_MS and not struck:
            yield f"singleton: {by} began {delivery} {row.at_ms - term.ended_ms} ms after its term {term.fence}"
        if term.fence < last.get(delivery, 0) and not struck:
            yield f"singleton: {delivery} began in term {last[delivery]} and then in {term.fence}"
        last[delivery] = max(term.fence, last.get(delivery, 0))
