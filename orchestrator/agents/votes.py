"""Methods of an agent that vote on proposals, `@votes`, and what `on_decision` is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, Unpack

from orchestrator.agents.hooks import Hook
from orchestrator.agents.marks import MethodOptions, VotesMark, check_names, checked_message, mark
from orchestrator.core.coordination.decision import Decision, Vote
from orchestrator.core.errors import InvalidResult
from orchestrator.core.message import Message

F = TypeVar("F", bound=Callable[..., Any])

#: The method that is called with decisions, and the name of their messages.
DECISION: Final = Hook.DECISION.value

_PREFIX: Final = "vote_on_"


class DecisionFields(Message):
    """The fields of a decision's message; see :meth:`orchestrator.core.coordination.decision.Decision.from_wire`."""

    ballot: str
    message: str
    proposal: dict[str, Any]
    rule: str
    decided: dict[str, Any]

    def decision(self) -> Decision:
        """The decision.

        Raises:
            InvalidMessage: the fields are no decision's.
        """
        return Decision.from_wire(self.ballot, self.message, self.proposal, self.rule, self.decided)


def votes(message: type[Message], **options: Unpack[MethodOptions]) -> Callable[[F], F]:
    """Mark a method that votes on each ``message`` that is proposed to this agent; it returns a :class:`Vote`.

    It is called with the proposal and a :class:`Context`, or with the proposal alone. The options are those of
    :class:`Agent`, for these proposals. If it does not return a ``Vote``, or its last attempt fails, its agent is
    silent in that ballot.

    Raises:
        InvalidDeclaration: ``message`` is not a :class:`Message` class.
        TypeError: there is no such option.
    """
    check_names("votes", options, MethodOptions.__optional_keys__)
    return mark(VotesMark(checked_message("votes", message), options))


def vote_name(message: str) -> str:
    """The name of the message that asks for a vote on messages of this name."""
    return f"{_PREFIX}{message}"


def is_vote(name: str) -> bool:
    """Whether a message of this name asks for a vote."""
    return name.startswith(_PREFIX)


def checked_vote(method: str, returned: object) -> dict[str, Any]:
    """The vote that a method has returned, as JSON data.

    Raises:
        InvalidResult: it is none.
    """
    if not isinstance(returned, Vote):
        raise InvalidResult(method, type(returned).__name__, "allowed: Vote.approve() or Vote.reject(why)", "a Vote")
    return returned.to_wire()
