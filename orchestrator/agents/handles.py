"""`@handles`: the methods of an agent that handle messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.agents.marks import HandlesMark, checked_message, mark
from orchestrator.core.errors import InvalidDeclaration
from orchestrator.core.masked_repr import masked_repr
from orchestrator.core.message import Message
from orchestrator.core.policy import OnError, Retry, WhenDown, WhenOpen

F = TypeVar("F", bound=Callable[..., Any])


def handles(
    message: type[Message],
    *,
    retry: Retry | None = None,
    on_error: OnError | str | None = None,
    timeout_s: float | str | None = None,
    deadline_s: float | None = None,
    expires_s: float | None = None,
    priority: int | None = None,
    when_down: WhenDown | str | None = None,
    when_open: WhenOpen | str | None = None,
    dead_letter_expired: bool | None = None,
    idempotent: bool = False,
) -> Callable[[F], F]:
    """Mark a method as the handler of ``message``; it is called with the message and a :class:`Context`.

    A handler without a second parameter is called with the message alone. The options are those of :class:`Agent`,
    for this message. An ``idempotent`` handler may run twice for one request, also at once, so callers may hedge.

    Raises:
        InvalidDeclaration: ``message`` is not a :class:`Message` class, or ``idempotent`` no bool.
    """
    checked_message("handles", message)
    if not isinstance(idempotent, bool):
        raise InvalidDeclaration(
            f"@handles({message.__name__}, idempotent={masked_repr(idempotent)}); allowed: True or False"
        )
    policy = {
        "retry": retry,
        "on_error": on_error,
        "timeout_s": timeout_s,
        "deadline_s": deadline_s,
        "expires_s": expires_s,
        "priority": priority,
        "when_down": when_down,
        "when_open": when_open,
        "dead_letter_expired": dead_letter_expired,
    }
    return mark(HandlesMark(message, policy, idempotent))
