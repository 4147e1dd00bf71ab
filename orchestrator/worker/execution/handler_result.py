"""What a handler returned, as JSON data that can be recorded; refused where it cannot."""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

from pydantic_core import to_jsonable_python

from orchestrator.agents.expand import Expand
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import HandlerNotRun, InvalidResult, ResultTooLarge
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.transport.letter_draft import MESSAGE_LIMIT

#: Longest result in a reply, in bytes of JSON: a script puts it into the reply's text, which takes it some ms.
MOST_IN_A_REPLY: Final = 256 * 1024

#: What handlers mostly return.
_PLAIN: Final = frozenset({type(None), bool, int, float, str, list, dict})

#: JSON has no NaN and no infinities.
_strict_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def as_json(task: str, result: Any) -> Any:
    """A result as JSON data.

    Raises:
        InvalidResult: it is not.
    """
    if result is None:
        return None
    try:
        data = to_jsonable_python(result)
        # pydantic leaves some Python values as they are that JSON text cannot hold: NaN, lone surrogates, infinities.
        if data is not None and data is not True and data is not False:
            (data if type(data) is str else _strict_json(data)).encode()
        return data
    except Exception as error:
        # Models' serialisers and iterators may raise anything.
        raise InvalidResult(task, type(result).__name__, f"{error}"[:MESSAGE_LIMIT]) from error


def check_size(data: Any, limit: int) -> None:
    """Refuse a result that is too large for a copy of it to be kept: with a workflow's run, or in a reply.

    Raises:
        ResultTooLarge: it has more than ``limit`` bytes as JSON.
    """
    if isinstance(data, str | list | dict) and (size := len(_strict_json(data).encode())) > limit:
        raise ResultTooLarge(size, limit)


def result_limit(supervision: Supervision, limit: int) -> int:
    """The most bytes that the result of a workflow's step, or of an ask, may have."""
    return min(limit, MOST_IN_A_REPLY) if supervision.ask else limit


def expanded(app: Any, task: str, supervision: Supervision | None, steps: Expand) -> Any:
    """The record of a step whose handler has returned other steps, which are written to its run's plan.

    Raises:
        InvalidResult: the task is no step of a workflow.
        InvalidExpansion: what it returned cannot be steps of its run.
        ResultTooLarge: what its result is made of is too large to be kept.
        BrokerUnavailable: Redis is away.
    """
    if supervision is None or supervision.run is None:
        raise InvalidResult(task, "Expand", "only a step of a workflow can be replaced by others")
    recorded = app.orchestrator.runtime.steps.expand(supervision.run, steps)
    final = recorded.final if isinstance(recorded, Expanded) else recorded
    check_size(final, app.orchestrator.settings.result_limit_bytes)
    return recorded


def check_ran(task: str, result: Any) -> None:
    """Refuse a result that is a coroutine or generator: no pool would run it.

    Raises:
        HandlerNotRun: it is one.
    """
    if type(result) in _PLAIN:
        return
    if inspect.iscoroutine(result):
        # Python would warn that it was never awaited.
        result.close()
    elif not inspect.isasyncgen(result) and not (
        inspect.isgenerator(result) and inspect.getgeneratorstate(result) == inspect.GEN_CREATED
    ):
        return
    raise HandlerNotRun(task, type(result).__name__)
