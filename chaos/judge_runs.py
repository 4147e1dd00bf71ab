"""Compares what the witness saw of the steps of workflows with the runs in Redis. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from chaos.functions import FUNCTIONS
from chaos.run_records import RunRecord
from chaos.steps import STEPS
from chaos.witness import Row
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.workflows.plan import Kind
from orchestrator.core.workflows.run_calls import CALLER
from orchestrator.core.workflows.run_state import RunState
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.ledger import LedgerRow
from orchestrator.workflows.redis.placing import is_placed

#: How long after a cancel a step that a worker had claimed may still begin: a heartbeat, on a busy machine.
LAG_MS = 1000

#: Executions of one attempt whose outcomes were not recorded, after which a step may be a dead letter as poison.
_DEATHS = 3

_ENDED = {"h": "handled", "d": "dead", "e": "expired", "c": "cancelled", "k": "skipped"}

_ROWS = ("starting", "started", "asked", "acted", "begun", "broke", "over")


def is_of_runs(row: Row) -> bool:
    """Whether a row is about a run or a step of one."""
    return row.what in _ROWS


@dataclass(slots=True)
class _Witnessed:
    """What the witness saw of one run; rows by their place among all rows."""

    kind: str = ""
    begun: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    over: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    broke: Counter[str] = field(default_factory=Counter)
    asked: dict[str, int] = field(default_factory=dict)
    #: When it was answered, and what it came to.
    acted: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunsVerdict:
    """The figures and the violations of the workflows of a chaos run."""

    started: int
    states: Counter[str]
    #: Executions of steps after which another one of the same step ended too.
    repeated: int
    violations: tuple[str, ...]


def judge_runs(
    rows: Sequence[Row], records: Sequence[RunRecord], letters: Sequence[DeadLetter], ledger: Sequence[LedgerRow]
) -> RunsVerdict:
    """The verdict on all runs."""
    seen: dict[str, _Witnessed] = defaultdict(_Witnessed)
    kinds = {str(row.note["run"]): str(row.note["kind"]) for row in rows if row.what == "starting"}
    started = {str(row.note["run"]): str(row.note["uid"]) for row in rows if row.what == "started"}
    for place, row in enumerate(rows):
        if row.what in ("begun", "over", "broke"):
            uid, _, step = str(row.note["step"]).partition(".")
            if row.what == "broke":
                seen[uid].broke[step] += 1
            else:
                getattr(seen[uid], row.what)[step].append(place)
        elif row.what == "asked":
            seen[str(row.note["uid"])].asked.setdefault(str(row.note["act"]), place)
        elif row.what == "acted":
            seen[str(row.note["uid"])].acted[str(row.note["act"])] = place, str(row.note["came_to"])
    by_uid = {record.status.uid: record for record in records}
    violations = [f"run lost: {run} ({uid})" for run, uid in started.items() if uid not in by_uid]
    violations += [f"{count} runs of one id: {run}" for run, count in _ids(records).items() if count > 1]
    violations += [f"a step of no run: {uid}.{step}" for uid in seen.keys() - by_uid for step in seen[uid].begun]
    for uid, record in by_uid.items():
        witnessed = seen[uid]
        witnessed.kind = kinds.get(record.status.id, "")
        for problem in _Case(rows, record, witnessed).problems():
            violations.append(f"{_describe(record)}: {problem}")
    violations += _ledger_problems(records, ledger)
    violations += _letter_problems(letters, seen)
    repeated = sum(max(0, len(places) - 1) for one in seen.values() for places in one.over.values())
    states = Counter(str(record.status.state) for record in records)
    return RunsVerdict(len(started), states, repeated, tuple(violations))


def _ids(records: Sequence[RunRecord]) -> Counter[str]:
    return Counter(record.status.id for record in records)


def _describe(record: RunRecord) -> str:
    status = record.status
    return f"run {status.id} ({status.uid}, {status.state})"


class _Case:
    """One run, and what the witness saw of it."""

    def __init__(self, rows: Sequence[Row], record: RunRecord, seen: _Witnessed) -> None:
        self._rows = rows
        self._record = record
        self._seen = seen
        #: Whether a cancel was recorded, and whether it was asked for: the answer may have been lost with Redis, and a
        #: second cancel be too late for the end of the first.
        self._cancelled = seen.acted.get("cancel", (0, ""))[1] in ("done", "cancelled already")
        self._asked_to_cancel = "cancel" in seen.asked
        self._dependencies: dict[str, list[str]] = defaultdict(list)
        for number, plan in record.plan.items():
            for dependent in plan.dependents:
                self._dependencies[str(dependent)].append(number)

    def problems(self) -> Iterator[str]:
        """Whatever is not as it has to be."""
        if not self._seen.kind:
            yield "nobody has started it"
        if not self._record.status.ended:
            yield f"has not ended: {dict(self._record.states)}"
            return
        yield from self._state_problems()
        yield from self._count_problems()
        yield from self._execution_problems()
        yield from self._order_problems()
        yield from self._pause_problems()
        yield from self._cancel_problems()
        yield from self._undo_problems()
        yield from self._call_problems()

    def _state_problems(self) -> Iterator[str]:
        """The run's state has a cause in its steps, or in what was done to it."""
        states = self._record.states
        dead = "d" in states.values()
        match self._record.status.state:
            case RunState.COMPLETED:
                for number, plan in self._record.plan.items():
                    # A function may catch what it has called; what an execution has written that was killed is no step.
                    allowed = ("h", "k", "d", None) if CALLER in plan.options else ("h", "k")
                    if states.get(number) not in allowed:
                        yield f"step {number} is {states.get(number, 'not begun')}"
                if self._cancelled:
                    yield "completed although its cancel was recorded"
            case RunState.FAILED:
                if not dead:
                    yield "no step of it is dead"
            case RunState.CANCELLED:
                if not self._asked_to_cancel:
                    yield "nobody has cancelled it"
            case RunState.COMPENSATED | RunState.COMPENSATION_FAILED:
                if not (dead and self._seen.kind == "saga") and not self._asked_to_cancel:
                    yield "compensated without a cause"
            case state:
                yield f"is at its end {state}"
        if left := {number for number, state in states.items() if state in "nsmuy"}:
            yield f"its end is recorded, but these are out: {sorted(left)}"

    def _count_problems(self) -> Iterator[str]:
        status, states = self._record.status, self._record.states
        for letter, name in _ENDED.items():
            counted = sum(state == letter for number, state in states.items() if number[0].isdigit())
            if getattr(status, name) != counted:
                yield f"it counts {getattr(status, name)} as {name}, of its steps {counted} are"
        if status.open:
            yield f"it counts {status.open} as open"
        ended = {number for number, state in states.items() if state in "hdec" and number[0].isdigit()}
        outcomes = {number for number in self._record.outcomes if number[0].isdigit()}
        if ended != outcomes:
            yield f"either ended or recorded, but not both: {sorted(ended ^ outcomes)}"

    def _execution_problems(self) -> Iterator[str]:
        """Each message that is recorded as handled has run to its end; and what came in was right."""
        for number, state in self._record.states.items():
            if state == "h" and self._is_message(number) and not self._seen.over.get(number):
                yield f"step {number} is handled, but never ran to its end"
            if state == "c" and self._seen.over.get(number) and not self._asked_to_cancel:
                yield f"step {number} is cancelled, and nobody has cancelled the run"
        for number, places in self._seen.begun.items():
            if number not in self._record.states:
                yield f"step {number} ran, and has no state"
            for place in places:
                numbers = self._rows[place].note.get("numbers")
                if numbers is not None and numbers != list(range(len(numbers))):
                    yield f"step {number} was given {numbers}"

    def _order_problems(self) -> Iterator[str]:
        for number, places in self._seen.begun.items():
            if number[0] == "u":
                continue
            for before in self._messages_before(number.partition(".")[0]):
                over = self._seen.over.get(before)
                if not over or over[0] > places[0]:
                    yield f"step {number} began before {before}, on which it depends, was over"

    def _pause_problems(self) -> Iterator[str]:
        """A step of which a dependency ended in a pause begins after the pause."""
        paused, came_to = self._seen.acted.get("pause", (0, ""))
        resumed = self._seen.asked.get("resume", len(self._rows))
        if came_to not in ("done", "paused already"):
            return
        for number, places in self._seen.begun.items():
            if number[0] == "u" or not paused < places[0] < resumed:
                continue
            for before in self._messages_before(number.partition(".")[0]):
                over = self._seen.over.get(before)
                if over and paused < over[0]:
                    yield f"step {number} began in a pause, in which {before} had ended"

    def _cancel_problems(self) -> Iterator[str]:
        if not self._cancelled:
            return
        at_ms = self._rows[self._seen.acted["cancel"][0]].at_ms
        for number, places in self._seen.begun.items():
            late_ms = self._rows[places[0]].at_ms - at_ms
            if number[0] != "u" and late_ms > LAG_MS and not self._was_stopped(at_ms, self._rows[places[0]]):
                yield f"step {number} began {late_ms} ms after the run was cancelled"

    def _was_stopped(self, since_ms: int, begun: Row) -> bool:
        """Whether the worker that began a step could not learn in time of a cancel: it, or Redis, was stopped."""
        for row in self._rows:
            if row.what == "strike" and since_ms - LAG_MS <= row.at_ms + int(float(row.note.get("for_s", 0)) * 1000):
                stopped = row.note.get("kind") in ("stop", "freeze") and begun.node.startswith(f"{row.node}@")
                if row.at_ms <= begun.at_ms and (stopped or row.note.get("kind") == "redis"):
                    return True
        return False

    def _undo_problems(self) -> Iterator[str]:
        """Compensations begin once nothing else is out, one after the other, the last step's first."""
        begun, over = self._seen.begun, self._seen.over
        undone = {number: places[0] for number, places in begun.items() if number[0] == "u"}
        if undone and self._record.status.state not in (RunState.COMPENSATED, RunState.COMPENSATION_FAILED):
            yield f"compensations ran: {sorted(undone)}"
        for number, places in begun.items():
            if number[0] != "u" and undone and places[0] > min(undone.values()):
                yield f"step {number} began after a compensation"
        for first, second in combinations(sorted(undone, key=lambda number: undone[number]), 2):
            if not over.get(first) and self._record.states.get(first) == "h":
                yield f"compensation {first} is handled, but never ran to its end"
            elif over.get(first) and over[first][0] > undone[second]:
                yield f"compensation {second} began before {first} was over"
            if first[1:].partition(".")[0] in self._before(second[1:].partition(".")[0]):
                yield f"compensation {first} began before {second}, although {second[1:]} depends on {first[1:]}"
        states = self._record.states
        if self._record.status.state is RunState.COMPENSATED:
            for number, state in states.items():
                owed = number[0] != "u" and state == "h" and self._is_message(number)
                if owed and self._record.plan[number.partition(".")[0]].undo and states.get(f"u{number}") != "h":
                    yield f"step {number} is handled, and not undone"

    def _call_problems(self) -> Iterator[str]:
        """A function makes its calls one batch after the other, and none is missing or there twice."""
        for caller, calls in self._record.calls.items():
            positions = [int(self._record.plan[number].name.rpartition("-")[2]) for number in calls.numbers]
            if positions != sorted(set(positions)):
                yield f"the calls of step {caller} are {positions}"
            if self._record.states.get(caller) == "h" and not calls.numbers:
                yield f"step {caller} is handled, and has called nothing"
            before: list[str] = []
            for number in calls.numbers:
                if f"x{number}" in calls.batches:
                    before = [one for one in calls.numbers if int(one) < int(number)]
                for earlier in before:
                    began, over = self._seen.begun.get(number), self._seen.over.get(earlier)
                    handled = self._record.states.get(earlier) == "h" and self._is_message(earlier)
                    if began and handled and (not over or over[0] > began[0]):
                        yield f"call {number} began before {earlier} was over"

    # -- the graph

    def _is_message(self, number: str) -> bool:
        plan = self._record.plan[number.removeprefix("u").partition(".")[0]]
        return plan.kind is Kind.TASK or "." in number

    def _before(self, number: str) -> set[str]:
        """The steps that it depends on, directly or not."""
        found: set[str] = set()
        for before in self._dependencies.get(number, ()):
            found |= {before} | self._before(before)
        return found

    def _messages_before(self, number: str) -> set[str]:
        """The messages that have to be handled before a step begins: its dependencies', and through those without."""
        found: set[str] = set()
        for before in self._dependencies.get(number, ()):
            kind = self._record.plan[before].kind
            if kind is Kind.TASK:
                found.add(before)
            elif kind is Kind.MAP and (items := self._items(before)):
                found |= items
            else:
                found |= self._messages_before(before)
        return found

    def _items(self, number: str) -> set[str]:
        return {item for item in self._record.states if item.startswith(f"{number}.")}


def _ledger_problems(records: Sequence[RunRecord], ledger: Sequence[LedgerRow]) -> Iterator[str]:
    """The mailbox of the steps has as many outcomes as the runs."""
    row = next((row for row in ledger if row.queue == STEPS), LedgerRow(STEPS))
    recorded: Counter[str] = Counter()
    for record in records:
        for number, state in record.states.items():
            plan = record.plan[number.removeprefix("u").partition(".")[0]]
            if plan.queue != FUNCTIONS and not is_placed(plan) and ("." in number or plan.kind is Kind.TASK):
                recorded[state] += 1
    for letter, name in (("h", "handled"), ("d", "dead")):
        if getattr(row, name) != recorded[letter]:
            yield f"the ledger of {STEPS} says {getattr(row, name)} {name}, the runs say {recorded[letter]}"
    yield from _executions(records, next((row for row in ledger if row.queue == FUNCTIONS), LedgerRow(FUNCTIONS)))


def _executions(records: Sequence[RunRecord], row: LedgerRow) -> Iterator[str]:
    """The mailbox of the functions has an outcome for each execution whose end is recorded."""
    expected = cancelled = 0
    for record in records:
        expected += sum(len(calls.batches) for calls in record.calls.values())
        for number, plan in record.plan.items():
            if plan.queue == FUNCTIONS:
                expected += record.states.get(number) == "h"
                # Its last execution may have come to calls that the cancelled run takes no more.
                cancelled += record.states.get(number) == "c"
    if not expected <= row.handled <= expected + cancelled:
        yield f"the ledger of {FUNCTIONS} says {row.handled} handled, the runs say {expected} executions"


def _letter_problems(letters: Sequence[DeadLetter], seen: dict[str, _Witnessed]) -> Iterator[str]:
    """A step is a dead letter because it failed as often as it may, or because its workers died of it."""
    for letter in letters:
        uid, _, step = letter.delivery_id.partition(".")
        witnessed = seen[uid]
        # Also those that were over: a worker may be killed before the outcome has left it.
        unrecorded = len(witnessed.begun[step]) - witnessed.broke[step]
        failed = letter.reason == Reason.EXHAUSTED and witnessed.broke[step] > 0
        died = letter.reason == Reason.POISON and len(letter.deaths) >= _DEATHS and unrecorded >= _DEATHS - 1
        if not failed and not died:
            yield f"dead letter without cause ({letter.reason}): {letter.delivery_id} of {witnessed.kind or 'unknown'}"
