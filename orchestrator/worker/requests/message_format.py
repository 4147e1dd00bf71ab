"""Reads a message's headers and body: refuses what would fail later, and recognises what most messages have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery.exceptions import InvalidTaskError

from orchestrator.celery_types import Message
from orchestrator.core.checks.numbers import is_number
from orchestrator.core.checks.text import is_text
from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.core.errors import InvalidPolicy
from orchestrator.transport.mailbox_entry import plain_loads

#: Headers that are texts, or absent.
_TEXTS: Final = ("root_id", "parent_id", "group")

#: Headers that a message on the fast path has not.
_UNCOMMON: Final = ("eta", "expires", "stamps", "stamped_headers", "compression")

#: Types of signatures that stand for more than one task.
_SUBTASKS: Final = ("chain", "group", "chord", "chunks", "xmap", "xstarmap")


def check_headers(headers: Mapping[str, Any]) -> Supervision | None:
    """Refuse headers that would fail later. Returns the message's supervision; ``None`` for a plain Celery send.

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


def common_supervision(headers: Mapping[str, Any]) -> Supervision | None:
    """The supervision of a message whose headers have nothing uncommon; ``None`` if they have, or have none."""
    delivery, retries = headers.get("id"), headers.get("retries")
    if not delivery or not is_text(delivery) or type(retries) is not int or retries < 0:
        return None
    for name in _TEXTS:
        value = headers.get(name)
        if value is not None and not is_text(value):
            return None
    for name in _UNCOMMON:
        if headers.get(name):
            return None
    if headers.get("timelimit") != [None, None]:
        return None
    try:
        return Supervision.from_wire(headers[HEADER])
    except (KeyError, InvalidPolicy):
        return None


def common_body(message: Message) -> list[Any] | None:
    """Arguments, keyword arguments and embedded options of a JSON body after which nothing follows a success.

    ``None`` if it is another body, or a malformed one.
    """
    raw, accept = message.body, message.accept
    if (
        message.content_type != "application/json"
        or message.content_encoding != "utf-8"
        or type(raw) is not bytes
        # A value of a type that kombu decodes.
        or b'"__type__"' in raw
        or (accept is not None and "application/json" not in accept)
    ):
        return None
    try:
        body = plain_loads(raw)
        args, kwargs, embed = body
    except (ValueError, TypeError, RecursionError):
        return None
    if type(args) is not list or type(kwargs) is not dict or type(embed) is not dict:
        return None
    if embed.get("callbacks") or embed.get("chain") or embed.get("chord"):
        return None
    whole: list[Any] = body
    return whole


def check_body(body: Any) -> None:
    """Refuse a body that is not arguments, keyword arguments and an object of callbacks, errbacks, chain and chord.

    Raises:
        InvalidTaskError: names the part, its type and what is allowed.
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
    """Refuse values that Celery would find to be no signatures only after the handler has run."""
    if listed is None:
        return
    if not isinstance(listed, list | tuple):
        raise InvalidTaskError(f"{name}={listed!r:.100} is not allowed; allowed: a list of signatures")
    for one in listed:
        # Celery accepts a task's name as a signature, but not in a chain.
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
