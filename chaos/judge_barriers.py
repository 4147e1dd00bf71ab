"""Compares what became of the parties of barriers with Redis' own record of generations. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chaos.barriers import MUSTER, ON_DEATH, PARTIES, TIMEOUT_S
from chaos.judge_leases import Stops
from chaos.redis_record import Recorded
from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter

_SKEW_MS = 50

#: A party that is struck while it waits writes nothing more. Longest time from its arrival to the strike, in ms.
_STRUCK_MS = 30_000

#: The rows that are read here.
ROWS = ("arriving", "arrived", "refused", "passed", "broke off", "gave up", "mustered")

_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class BarriersVerdict:
    """The figures and the violations of barriers."""

    generations: int = 0
    #: Generations that went on without a party that had died.
    shrunk: int = 0
    violations: tuple[str, ...] = ()


@dataclass(slots=True)
class _Generation:
    """One generation: what is on record, and what the witness saw."""

    #: When it ended, in ms, and why it broke, or '' if it tripped. There should be one.
    ends: list[tuple[int, str]] = field(default_factory=list)
    #: Parties that it did without, and why.
    gone: dict[str, str] = field(default_factory=dict)
    #: Deliveries of the messages that were sent, by party.
    sent: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    arrived: list[Row] = field(default_factory=list)

    @property
    def parties(self) -> set[str]:
        return {str(row.note["party"]) for row in self.arrived}


def judge_barriers(rows: Sequence[Row], record: Sequence[Recorded], letters: Sequence[DeadLetter]) -> BarriersVerdict:
    """The verdict on all generations."""
    generations, violations = _read(rows, record)
    stops = Stops(rows)
    uncertain = _uncertain(rows)
    for (name, number), one in generations.items():
        problems = (*_end_problems(name, number, one, stops), *_party_problems(name, one, uncertain))
        violations += [f"barrier {name}, generation {number}: {problem}" for problem in problems]
    violations += _reported_problems(rows, generations)
    violations += _waiting_problems(rows, stops)
    violations += _message_problems(rows, generations, letters)
    ended = sum(bool(one.ends) for one in generations.values())
    return BarriersVerdict(ended, sum(bool(one.gone) for one in generations.values()), tuple(violations))


def _read(rows: Sequence[Row], record: Sequence[Recorded]) -> tuple[dict[_Key, _Generation], list[str]]:
    """All generations, and what is wrong with the order of their ends."""
    generations: dict[_Key, _Generation] = defaultdict(_Generation)
    last: dict[str, int] = defaultdict(int)
    problems = []
    for event in record:
        if not event.kind.startswith("barrier_"):
            continue
        name, number, *more = event.fields
        one = generations[name, int(number)]
        match event.kind:
            case "barrier_tripped" | "barrier_broken":
                one.ends.append((event.at_ms, "" if event.kind == "barrier_tripped" else more[0]))
                if int(number) < last[name]:
                    problems.append(f"barrier {name}: generation {number} has ended after {last[name]}")
                last[name] = max(last[name], int(number))
            case "barrier_shrunk":
                one.gone[more[0]] = more[1]
            case "barrier_sent":
                one.sent[more[0]].append(more[2])
    for row in rows:
        if row.what == "arrived":
            generations[_key(row)].arrived.append(row)
    return generations, problems


def _key(row: Row) -> _Key:
    return str(row.note["barrier"]), int(row.note["generation"])


def _uncertain(rows: Sequence[Row]) -> list[Row]:
    """Arrivals that were asked for without an answer: Redis may have counted them."""
    asked: dict[tuple[int, str, str], Row] = {}
    lost = []
    for row in rows:
        if row.what in ("arriving", "arrived", "refused"):
            who = row.pid, str(row.note["barrier"]), str(row.note["party"])
            before = asked.pop(who, None)
            if row.what == "arriving":
                lost += [before] if before is not None else []
                asked[who] = row
    return [*lost, *asked.values()]


def _end_problems(name: str, number: int, one: _Generation, stops: Stops) -> Iterator[str]:
    """It ends once; if it breaks, something has happened that its reason names."""
    if len(one.ends) != 1:
        yield f"has ended {len(one.ends)} times"
        return
    ((at_ms, reason),) = one.ends
    struck = any(stops.was_struck(row, at_ms) for row in one.arrived) or stops.redis_was_away(number, at_ms)
    match reason:
        case "":
            return
        case "timeout":
            if at_ms - number < TIMEOUT_S * 1000 - _SKEW_MS:
                yield f"broke by its timeout after {at_ms - number} ms"
        case "wait timeout":
            # Its parties wait for longer than it lasts, unless they are stopped.
            if not struck:
                yield "broke by a wait timeout, and nobody was struck"
        case "interrupted" | "reset" | "lost":
            yield f"broke: {reason}"
        case _:
            if ON_DEATH[name] == "shrink":
                yield f"broke by a death ({reason}), and should have shrunk"
            elif not struck:
                yield f"broke by a death ({reason}), and nobody was struck"


def _party_problems(name: str, one: _Generation, uncertain: Sequence[Row]) -> Iterator[str]:
    """It trips when all parties have arrived, neither before nor after."""
    there = one.parties | one.gone.keys()
    if len(there) > PARTIES:
        yield f"has {len(there)} parties: {sorted(there)}"
    if one.gone and ON_DEATH[name] == "break":
        yield f"has shrunk: {one.gone}"
    if len(one.ends) == 1 and one.ends[0][1] == "":
        until_ms = one.ends[0][0] + _SKEW_MS
        maybe = {str(row.note["party"]) for row in uncertain if row.note["barrier"] == name and row.at_ms <= until_ms}
        if len(there | maybe) < PARTIES:
            yield f"has tripped with {len(there)} of {PARTIES} parties"


def _reported_problems(rows: Sequence[Row], generations: dict[_Key, _Generation]) -> Iterator[str]:
    """A party gets the end that is on record, and not before it is recorded."""
    for row in rows:
        if row.what not in ("passed", "broke off", "refused"):
            continue
        one, party = generations[_key(row)], str(row.note["party"])
        reported = str(row.note.get("reason", ""))
        on_record = {reason for at_ms, reason in one.ends if at_ms <= row.at_ms + _SKEW_MS}
        on_record |= {why for lost, why in one.gone.items() if lost == party}
        if reported not in on_record:
            name, number = _key(row)
            known = ", ".join(sorted(reason or "tripped" for reason in on_record)) or "nothing"
            yield f"barrier {name}, generation {number}: {party} was told {reported or 'tripped'}, on record is {known}"


def _waiting_problems(rows: Sequence[Row], stops: Stops) -> Iterator[str]:
    """Nobody waits for ever: each wait ends, unless its process is struck."""
    waits: dict[tuple[int, str, str], Row] = {}
    for row in rows:
        who = row.pid, str(row.note.get("barrier")), str(row.note.get("party"))
        if row.what == "arrived" and row.note["waits"]:
            waits[who] = row
        elif row.what in ("passed", "broke off", "gave up"):
            waits.pop(who, None)
    for row in waits.values():
        if not stops.was_struck(row, row.at_ms + _STRUCK_MS):
            name, number = _key(row)
            yield f"barrier {name}, generation {number}: {row.note['party']} has waited, and was told nothing"


def _message_problems(
    rows: Sequence[Row], generations: dict[_Key, _Generation], letters: Sequence[DeadLetter]
) -> Iterator[str]:
    """Of each message that a party has left, one is sent, the right one, and it is handled."""
    handled: dict[str, set[bool]] = defaultdict(set)
    for row in rows:
        if row.what == "mustered":
            handled[str(row.note["delivery"])].add(bool(row.note["tripped"]))
    lettered = {letter.delivery_id for letter in letters if letter.queue == MUSTER}
    sent = Counter(delivery for one in generations.values() for all_ in one.sent.values() for delivery in all_)
    for (name, number), one in generations.items():
        where = f"barrier {name}, generation {number}"
        for party in {str(row.note["party"]) for row in one.arrived if not row.note["waits"]} | one.sent.keys():
            if len(one.sent.get(party, ())) != 1:
                yield f"{where}: {party} has left a message, and {len(one.sent.get(party, ()))} were sent"
        has_tripped = {reason == "" for _, reason in one.ends}
        for delivery in (delivery for all_ in one.sent.values() for delivery in all_):
            if not handled[delivery] and delivery not in lettered:
                yield f"{where}: message {delivery} was sent, and never handled"
            elif not handled[delivery] <= has_tripped:
                yield f"{where}: message {delivery} says tripped={sorted(handled[delivery])}"
    for delivery in handled.keys() - sent.keys():
        yield f"barriers: message {delivery} was handled, and never sent"
