"""Compares who ran the steps that say what they need with what each agent offers. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.placed import CRANES, OFFERED
from chaos.run_records import RunRecord
from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.ledger import LedgerRow, total
from orchestrator.workflows.redis.placing import is_placed


@dataclass(frozen=True, slots=True)
class PlacementVerdict:
    """The figures and the violations of steps that were placed."""

    #: Messages of such steps, and of their compensations, that were handled.
    placed: int = 0
    violations: tuple[str, ...] = ()


def judge_placement(
    rows: Sequence[Row], records: Sequence[RunRecord], letters: Sequence[DeadLetter], ledger: Sequence[LedgerRow]
) -> PlacementVerdict:
    """The verdict on all steps that say what they need; that each has ended is the business of the judge of runs."""
    begun_by: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.what == "begun" and "by" in row.note:
            begun_by[str(row.note["step"])].add(str(row.note["by"]))
    lettered = {letter.delivery_id for letter in letters}
    violations: list[str] = []
    ends: Counter[str] = Counter()
    for record in records:
        for number, state in record.states.items():
            plan = record.plan[number.removeprefix("u").partition(".")[0]]
            if is_placed(plan):
                ends[state] += 1
                delivery = f"{record.status.uid}.{number}"
                needs = frozenset(plan.options["needs"])
                problems = _problems(state, needs, begun_by[delivery], is_lettered=delivery in lettered)
                violations += [f"step {delivery} needs {', '.join(sorted(needs))}: {problem}" for problem in problems]
    counted = total(row for row in ledger if row.queue in CRANES)
    for letter, name in (("h", "handled"), ("d", "dead")):
        if getattr(counted, name) != ends[letter]:
            violations.append(f"the ledger of the cranes says {getattr(counted, name)} {name}, the runs {ends[letter]}")
    return PlacementVerdict(ends["h"], tuple(violations))


def _problems(state: str, needs: frozenset[str], begun_by: set[str], *, is_lettered: bool) -> Iterator[str]:
    for agent in sorted(begun_by):
        if missing := needs - OFFERED[agent]:
            yield f"{agent} has begun it, and does not offer {', '.join(sorted(missing))}"
    if state == "h" and not any(needs <= OFFERED[agent] for agent in begun_by):
        yield "it is handled, and nobody who offers that has begun it"
    if state == "d" and not is_lettered:
        # Each of them waits as long as it takes.
        yield "it is dead as a step that nobody could be found for"
