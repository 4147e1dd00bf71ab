"""`@handles`: the methods of an agent that handle messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from orchestrator.agents.marks import HandlesMark, MethodOptions, check_names, checked_message, mark
from orchestrator.core.errors import InvalidDeclaration
from orchestrator.core.message import Message
from orchestrator.core.policies.policy import WhenDown, WhenOpen
from orchestrator.core.secrets.masked_repr import masked_repr

F = TypeVar("F", bound=Callable[..., Any])


class HandlesOptions(MethodOptions, total=False):
    """The arguments of ``@handles``."""

    deadline_s: float | None
    expires_s: float | None
    when_down: WhenDown | str | None
    when_open: WhenOpen | str | None
    dead_letter_expired: bool | None
    #: Whether it may run twice for one request.
    idempotent: bool


def handles(message: type[Message], **options: Unpack[HandlesOptions]) -> Callable[[F], F]:
    """Mark a method as the handler of ``message``; it is called with the message and a :class:`Context`.

    A handler without a second parameter is called with the message alone. The options are those of :class:`Agent`,
    for this message. An ``idempotent`` handler may run twice for one request, also at once, so callers may hedge.

    Raises:
        InvalidDeclaration: ``message`` is not a :class:`Message` class, or ``idempotent`` no bool.
        TypeError: there is no such option.
    """
    checked_message("handles", message)
    check_names("handles", options, HandlesOptions.__optional_keys__)
    policy: dict[str, Any] = dict(options)
    idempotent = policy.pop("idempotent", False)
    if not isinstance(idempotent, bool):
        raise InvalidDeclaration(
            f"@handles({message.__name__}, idempotent={masked_repr(idempotent)}); allowed: True or False"
        )
    return mark(HandlesMark(message, policy, idempotent))
