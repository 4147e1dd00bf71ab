"""Replaces the references in a step's arguments by results, before its handler is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, InvalidStepInput
from orchestrator.core.workflow_plan import numbers_in
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.store import Store
from orchestrator.workflows.errbacks import failure_part
from orchestrator.workflows.result_cache import ResultCache

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
    match value:
        case {"$orc": dict() as reference} if len(value) == 1:
            if "failed" in reference:
                return _failure(reference, outcomes, uid)
            return _resolved(reference, step, outcomes, item_count)
        case Mapping():
            return {key: fill(part, step, outcomes, item_count, uid) for key, part in value.items()}
        case list() | tuple():
            return [fill(part, step, outcomes, item_count, uid) for part in value]
    return value


def _failure(reference: Mapping[str, Any], outcomes: Outcomes, uid: str) -> Any:
    """An argument of an errback, about the first of its steps that is dead."""
    tasks = {number: task for task, ranges in reference["failed"].items() for number in numbers_in(ranges)}
    numbers = [str(number) for number in sorted(tasks)]
    for at in range(0, len(numbers), _AT_ONCE):
        some = numbers[at : at + _AT_ONCE]
        for number, outcome in zip(some, outcomes(some), strict=True):
            if outcome is not None and outcome["outcome"] == "dead":
                return failure_part(reference["as"], f"{uid}.{number}", tasks[int(number)], outcome)
    return None


def _resolved(reference: Mapping[str, Any], step: str, outcomes: Outcomes, item_count: ItemCount) -> Any:
    path = list(reference["path"])
    if "item" in reference:
        # Of the list that the map goes over, the part with its own number.
        over = reference["item"]
        item = int(step.removeprefix("u").partition(".")[2])
        return _resolved({**over, "path": [*over["path"], item, *path]}, step, outcomes, item_count)
    if "map" in reference:
        number = reference["map"]
        if path and isinstance(path[0], int):
            [result] = _results([f"{number}.{path.pop(0)}"], outcomes)
        else:
            result = _results([f"{number}.{item}" for item in range(item_count(number))], outcomes)
    elif "steps" in reference:
        result = _results([str(number) for number in numbers_in(reference["steps"])], outcomes)
    else:
        [result] = _results([reference["step"]], outcomes)
        # The result may be kept for other steps of this worker.
        return deepcopy(_part(result, path))
    return _part(result, path)


def _results(numbers: Sequence[str], outcomes: Outcomes) -> list[Any]:
    found: list[Any] = []
    for at in range(0, len(numbers), _AT_ONCE):
        found += outcomes(numbers[at : at + _AT_ONCE])
    return [outcome.get("result") if outcome is not None else None for outcome in found]


def _part(result: Any, path: Sequence[Any]) -> Any:
    part = result
    for name in path:
        if part is None and result is None:
            return None
        try:
            part = part[name]
        except (TypeError, KeyError, IndexError):
            told = "".join(f"[{one!r}]" for one in path)
            raise InvalidStepInput(f"a result has no {told}; it is a {type(result).__name__}") from None
    return part


class StepArguments:
    """Fills the arguments of steps that this process handles, from what Redis has of their runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache = ResultCache()
        # redis-py's client takes more time than Redis.
        self._commands = CommandConnection(store.pool)

    def fill(self, run: Mapping[str, Any], value: Any) -> Any:
        """Arguments of a step with its run's recorded results in them.

        Raises:
            InvalidStepInput: a result has no such part.
            BrokerUnavailable: Redis is away.
        """
        uid = str(run["uid"])
        key = self._store.keys.run(uid)

        def read(numbers: Sequence[str]) -> list[Any]:
            return list(self._commands.call("HMGET", f"{key}:outcomes", *numbers))

        def item_count(number: str) -> int:
            counts: bytes | None = self._commands.call("HGET", f"{key}:maps", number)
            return 0 if counts is None else int(counts.split(b",")[2])

        try:
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
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(self._store.url, error) from error


def _steps_in(value: Any) -> Iterator[str]:
    """The numbers of the steps that are referred to one by one."""
    match value:
        case {"$orc": {"step": str(number)}} if len(value) == 1:
            yield number
        case {"$orc": {"item": {"step": str(number)}}} if len(value) == 1:
            yield number
        case Mapping():
            for part in value.values():
                yield from _steps_in(part)
        case list() | tuple():
            for part in value:
                yield from _steps_in(part)


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
        return None if raw is None else final_result(json.loads(raw), *_readers(store, uid))
    except RedisError as error:
        raise BrokerUnavailable(store.url, error) from error


def _readers(store: Store, uid: str) -> tuple[Outcomes, ItemCount]:
    key = store.keys.run(uid)

    def outcomes(numbers: Sequence[str]) -> list[Any]:
        raw: Any = store.client.hmget(f"{key}:outcomes", list(numbers))
        return [None if text is None else json.loads(text) for text in raw]

    def item_count(number: str) -> int:
        counts: Any = store.client.hget(f"{key}:maps", number)
        return 0 if counts is None else int(counts.split(b",")[2])

    return outcomes, item_count


def has_references(run: Mapping[str, Any] | None) -> bool:
    """Whether a message is a step whose arguments have references."""
    return run is not None and bool(run.get("refs"))
