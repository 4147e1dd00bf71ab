"""Whether a message's headers and body are what Celery and we go by. From the network comes anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.exceptions import InvalidTaskError

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.numbers import is_number
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.core.text import is_text

_TEXTS = ("root_id", "parent_id", "group")

#: Signatures that are more than one task.
_SUBTASKS = ("chain", "group", "chord", "chunks", "xmap", "xstarmap")


def check_headers(headers: Mapping[str, Any]) -> Supervision | None:
    """Refuse headers that would fail somewhere further on; returns how the message is supervised.

    Raises:
        InvalidTaskError: names the header, its value and what is allowed.
    """
    if not headers.get("id") or not is_text(headers["id"]):
        raise _bad(headers, "id", "a text")
    for name in _TEXTS:
        if headers.get(name) is not None and not is_text(headers[name]):
            raise _bad(headers, name, "a text")
    retries = headers.get("retries")
    if retries is not None and (type(retries) is not int or retries < 0):
        raise _bad(headers, "retries", "a whole number from 0")
    limits = headers.get("timelimit")
    if limits is not None and not (isinstance(limits, list | tuple) and len(limits) == 2 and all(map(_limit, limits))):
        raise _bad(headers, "timelimit", "two numbers of seconds")
    if not isinstance(headers.get("stamps"), Mapping | None):
        raise _bad(headers, "stamps", "an object")
    stamped = headers.get("stamped_headers")
    if stamped is not None and not (isinstance(stamped, list | tuple) and all(map(is_text, stamped))):
        raise _bad(headers, "stamped_headers", "a list of texts")
    nesting = headers.get("replaced_task_nesting")
    if nesting is not None and (type(nesting) is not int or nesting < 0):
        raise _bad(headers, "replaced_task_nesting", "a whole number from 0")
    wire = headers.get(HEADER)
    try:
        return None if wire is None else Supervision.from_wire(wire)
    except InvalidPolicy as error:
        raise InvalidTaskError(str(error)) from None


def check_body(body: Any) -> None:
    """Refuse a body that is not arguments, keyword arguments and what belongs to them.

    Raises:
        InvalidTaskError: says what is not as it should be.
    """
    args, kwargs, embed = body
    if not isinstance(args, list | tuple):
        raise InvalidTaskError(f"the arguments are not a list but {type(args).__name__}")
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError(f"the keyword arguments are not an object but {type(kwargs).__name__}")
    if not isinstance(embed, Mapping | None):
        raise InvalidTaskError(f"callbacks, errbacks, chain and chord are not an object but {type(embed).__name__}")
    for name in ("callbacks", "errbacks", "chain"):
        _check_signatures(name, (embed or {}).get(name))
    chord = (embed or {}).get("chord")
    if chord is not None and not _is_signature(chord):
        raise InvalidTaskError(f"chord={chord!r:.100} is not allowed; allowed: a signature")


def _check_signatures(name: str, listed: Any) -> None:
    """Refuse what would be found to be no signature when the handler has run."""
    if listed is None:
        return
    if not isinstance(listed, list | tuple):
        raise InvalidTaskError(f"{name}={listed!r:.100} is not allowed; allowed: a list of signatures")
    for one in listed:
        # Celery takes a task's name for a signature, but not in a chain.
        if not _is_signature(one) and not (isinstance(one, str) and one and name != "chain"):
            raise InvalidTaskError(f"{name} holds {one!r:.100}; allowed: signatures")


def _is_signature(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("task"), str)
        and bool(value["task"])
        and isinstance(value.get("args"), list | tuple | None)
        and isinstance(value.get("kwargs"), Mapping | None)
        and isinstance(value.get("options"), Mapping | None)
        and (not value.get("subtask_type") or value["subtask_type"] in _SUBTASKS)
    )


def _limit(value: Any) -> bool:
    return value is None or is_number(value, 0)


def _bad(headers: Mapping[str, Any], name: str, allowed: str) -> InvalidTaskError:
    return InvalidTaskError(f"header {name}={headers.get(name)!r:.100} is not allowed; allowed: {allowed}")
