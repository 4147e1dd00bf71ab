"""Replaces the references in a step's arguments by results, before its handler is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.core.deliveries.outcome import Handled, Outcome, from_wire
from orchestrator.core.errors import InvalidStepInput
from orchestrator.core.workflows.plan import numbers_in
from orchestrator.core.workflows.result_path import MARK, ResultPaths, reference_in, result_of
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.patience import OUTAGE_S, outlast
from orchestrator.transport.store import Store
from orchestrator.workflows.errbacks import failure_part
from orchestrator.workflows.references import PLAIN
from orchestrator.workflows.steps.result_cache import ResultCache

#: Results that one command reads.
_AT_ONCE: Final = 500

#: Most results that come with a step's message; more are read by the worker.
_MOST_INPUTS: Final = 20

#: Looks up the outcomes of steps and items by their numbers, as JSON data; and how many items a map has.
Outcomes = Callable[[Sequence[str]], list[Any]]
ItemCount = Callable[[str], int]


class NotHandled(Exception):
    """A result is missing: the step, whose number this has, was not handled."""


def final_result(value: Any, outcomes: Outcomes, item_count: ItemCount) -> Any:
    """A run's result: its ``final`` with the references replaced.

    Raises:
        NotHandled: a step that it refers to was not handled, or has not ended.
        InvalidStepInput: a result has no such part.
    """

    def handled(numbers: Sequence[str]) -> list[Any]:
        found = outcomes(numbers)
        for number, outcome in zip(numbers, found, strict=True):
            if outcome is None or outcome["outcome"] != "handled":
                raise NotHandled(number)
        return found

    return fill(value, "", handled, item_count, "")


def fill(value: Any, step: str, outcomes: Outcomes, item_count: ItemCount, uid: str) -> Any:
    """Arguments with their references replaced. ``step`` is the step's number; of an item of a map ``MAP.ITEM``.

    Raises:
        InvalidStepInput: a result has no such part.
    """
    # Most values are plain; `isinstance` of an abstract class takes long, so that it comes last.
    if type(value) in PLAIN:
        return value
    if isinstance(value, list | tuple):
        return [fill(part, step, outcomes, item_count, uid) for part in value]
    if not isinstance(value, dict | Mapping):
        return value
    reference = value.get(MARK) if len(value) == 1 else None
    if not isinstance(reference, dict):
        return {key: fill(part, step, outcomes, item_count, uid) for key, part in value.items()}
    if "failed" in reference:
        return _failure(reference, step, outcomes, uid)
    return _resolved(reference, step, outcomes, item_count)


def _failure(reference: Mapping[str, Any], step: str, outcomes: Outcomes, uid: str) -> Any:
    """An argument of an errback, about the step whose death has called it."""
    [called] = outcomes([f"e{step}"])
    if called is None:
        return None
    number = called["step"]
    tasks = {str(one): task for task, ranges in reference["failed"].items() for one in numbers_in(ranges)}
    task = tasks.get(number) or called.get("task", "")
    return failure_part(reference["as"], f"{uid}.{number}", task, outcomes([number])[0])


def _resolved(reference: Mapping[str, Any], step: str, outcomes: Outcomes, item_count: ItemCount) -> Any:
    path = list(reference["path"])
    if "item" in reference:
        # Of the list that the map goes over, the part with its own number.
        over = reference["item"]
        item = int(step.removeprefix("u").partition(".")[2])
        reference = {**over, "path": [*over["path"], item, *path]}
    paths = ResultPaths(lambda number: outcomes([number])[0], item_count)
    try:
        value, refers = paths.follow(reference)
    except (LookupError, TypeError):
        part = "".join(f"[{one!r}]" for one in reference["path"])
        raise InvalidStepInput(f"a result has no {part}") from None
    if not refers:
        # The result may be kept for other steps of this worker.
        return value if type(value) in PLAIN else deepcopy(value)
    inner = reference_in(value)
    if inner is None:
        return fill(value, step, outcomes, item_count, "")
    if "map" in inner:
        numbers = [f"{inner['map']}.{item}" for item in range(item_count(inner["map"]))]
    else:
        numbers = [str(number) for number in numbers_in(inner["steps"])]
    return [_whole(outcome, step, outcomes, item_count) for outcome in _read(numbers, outcomes)]


def _whole(outcome: Any, step: str, outcomes: Outcomes, item_count: ItemCount) -> Any:
    value, refers = result_of(outcome)
    return fill(value, step, outcomes, item_count, "") if refers else value


def _read(numbers: Sequence[str], outcomes: Outcomes) -> Iterator[Any]:
    for at in range(0, len(numbers), _AT_ONCE):
        yield from outcomes(numbers[at : at + _AT_ONCE])


def outcome_in_run(wire: Mapping[str, Any], outcomes: Outcomes, item_count: ItemCount) -> Outcome:
    """A step's outcome; of one whose place others have taken, with the result that theirs make."""
    outcome = from_wire(wire)
    if isinstance(outcome, Handled) and "expanded" in wire:
        return replace(outcome, result=_whole(wire, "", outcomes, item_count))
    return outcome


class StepArguments:
    """Fills the arguments of steps that this process handles, from what Redis has of their runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache = ResultCache()
        # redis-py's client takes more time than Redis.
        self._commands = CommandConnection(store.pool)

    def fill(self, run: Mapping[str, Any], value: Any) -> Any:
        """Arguments of a step with its run's recorded results in them. While Redis is away it waits, for 30 s at most.

        Raises:
            InvalidStepInput: a result has no such part, or the run is not kept any more.
            BrokerUnavailable: Redis is away.
        """
        try:
            return outlast(monotonic() + OUTAGE_S, lambda: self._fill(run, value))
        except (RedisError, OSError) as error:
            raise self._store.failure(error) from error

    def _fill(self, run: Mapping[str, Any], value: Any) -> Any:
        uid = str(run["uid"])
        key = self._store.keys.run(uid)

        def read(numbers: Sequence[str]) -> list[Any]:
            texts = list(self._commands.call("HMGET", f"{key}:outcomes", *numbers))
            if None in texts:
                self._check_kept(run, key)
            return texts

        def item_count(number: str) -> int:
            counts: bytes | None = self._commands.call("HGET", f"{key}:maps", number)
            if counts is None:
                self._check_kept(run, key)
                return 0
            return int(counts.split(b",")[2])

        # Short outcomes come with the message (see `inputs` in runs.lua).
        single = dict(run["refs"]) if isinstance(run.get("refs"), Mapping) else {}
        wanted = [number for number in dict.fromkeys(_steps_in(value)) if number not in single]
        single |= {number: outcome for number in wanted if (outcome := self._cache.get(uid, number))}
        missing = [number for number in wanted if number not in single]
        if missing:
            for number, text in zip(missing, read(missing), strict=True):
                single[number] = None if text is None else self._cache.read(uid, number, text)

        def outcomes(numbers: Sequence[str]) -> list[Any]:
            if len(numbers) == 1 and numbers[0] in single:
                return [single[numbers[0]]]
            return [None if text is None else json.loads(text) for text in read(numbers)]

        return fill(value, str(run["step"]), outcomes, item_count, uid)

    def _check_kept(self, run: Mapping[str, Any], key: str) -> None:
        if not self._commands.call("EXISTS", key):
            raise run_gone(run)


def run_gone(run: Mapping[str, Any]) -> InvalidStepInput:
    """The error of a step that is replayed after its run was deleted, or has expired: there are no results any more."""
    return InvalidStepInput(f"run {run.get('id')!r} is not kept any more, and with it the results that this step needs")


def _steps_in(value: Any) -> list[str]:
    """The numbers of the steps that are referred to one by one."""
    found: list[str] = []
    _collect_steps(value, found)
    return found


def _collect_steps(value: Any, found: list[str]) -> None:
    if type(value) in PLAIN:
        return
    if isinstance(value, list | tuple):
        for part in value:
            _collect_steps(part, found)
    elif isinstance(value, dict | Mapping):
        match value:
            case {"$orc": {"step": str(number)} | {"item": {"step": str(number)}}} if len(value) == 1:
                found.append(number)
            case _:
                for part in value.values():
                    _collect_steps(part, found)


def inputs_in(value: Any) -> tuple[int, ...]:
    """The numbers of the steps that arguments refer to one by one; none if they are many."""
    numbers = tuple(dict.fromkeys(map(int, _steps_in(value))))
    return numbers if len(numbers) <= _MOST_INPUTS else ()


def final_from_redis(store: Store, uid: str) -> Any:
    """The result of a run in Redis.

    Raises:
        NotHandled: a step that it refers to was not handled, or has not ended.
        InvalidStepInput: a result has no such part.
        BrokerUnavailable: Redis is away.
    """
    try:
        raw: Any = store.client.hget(store.keys.run(uid), "final")
        with store.reading(store.keys.run(uid)):
            final = None if raw is None else json.loads(raw)
        return None if raw is None else final_result(final, *readers(store, uid))
    except RedisError as error:
        raise store.failure(error) from error


def readers(store: Store, uid: str) -> tuple[Outcomes, ItemCount]:
    """Read the outcomes and the maps of a run in Redis."""
    key = store.keys.run(uid)

    def outcomes(numbers: Sequence[str]) -> list[Any]:
        raw: Any = store.client.hmget(f"{key}:outcomes", list(numbers))
        with store.reading(f"{key}:outcomes"):
            return [None if text is None else json.loads(text) for text in raw]

    def item_count(number: str) -> int:
        counts: Any = store.client.hget(f"{key}:maps", number)
        with store.reading(f"{key}:maps"):
            return 0 if counts is None else int(counts.split(b",")[2])

    return outcomes, item_count


def has_references(run: Mapping[str, Any] | None) -> bool:
    """Whether a message is a step whose arguments have references."""
    return run is not None and bool(run.get("refs"))
