"""`Reply`: the message that answers an ask, in the asker's mailbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.calls.ask import TIMEOUT
from orchestrator.core.calls.no_reply import no_reply
from orchestrator.core.checks.numbers import is_number
from orchestrator.core.deliveries.outcome import Handled, Outcome, from_wire
from orchestrator.core.errors import DeliveryTimeout, InvalidMessage, InvalidPolicy, SendFailed
from orchestrator.core.secrets.masked_repr import summary

#: Longest tag, in characters of JSON.
LONGEST_TAG: Final = 1000


def reply_name(message: str) -> str:
    """The name of the message that brings the replies to messages of this name."""
    return f"reply_to_{message}"


@dataclass(frozen=True, slots=True)
class Reply:
    """The one reply to an ask. ``error`` is ``None`` if the request was handled, and then there is a ``result``."""

    #: The id that :meth:`Context.ask` has returned.
    id: str
    #: Who was asked.
    agent: str
    #: The name of the message that it was asked by.
    message: str
    #: What was given with the ask.
    tag: Any
    #: How the request ended; ``None`` if the ask timed out before.
    outcome: Outcome | None
    timeout_s: float = 0.0

    def __repr__(self) -> str:
        return summary(self, ("id", "agent", "message", "tag", "outcome"))

    @property
    def result(self) -> Any:
        """The result of the handler; ``None`` if there is an error."""
        return self.outcome.result if isinstance(self.outcome, Handled) else None

    @property
    def error(self) -> SendFailed | DeliveryTimeout | None:
        """The reason why there is no result."""
        if isinstance(self.outcome, Handled):
            return None
        return no_reply(self.id, self.outcome, self.timeout_s)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Reply:
        """A reply from its message's fields.

        Raises:
            InvalidMessage: they are something else.
        """
        id, agent, message = (wire.get(name) for name in ("id", "agent", "message"))
        outcome = wire.get("outcome")
        try:
            if not (isinstance(id, str) and isinstance(agent, str) and isinstance(message, str)):
                raise ValueError
            if not isinstance(outcome, Mapping) or outcome.get("outcome") != TIMEOUT:
                return cls(id, agent, message, wire.get("tag"), from_wire(outcome or {}))
            timeout_s = outcome.get("timeout_s")
            return cls(id, agent, message, wire.get("tag"), None, float(timeout_s) if is_number(timeout_s) else 0.0)
        except ValueError:
            raise InvalidMessage("Reply", ["allowed: an object with id, agent, message, tag and outcome"]) from None


def timeout_wire(timeout_s: float) -> dict[str, Any]:
    """The outcome of an ask that has timed out."""
    return {"outcome": TIMEOUT, "timeout_s": timeout_s}


def check_tag(tag: Any) -> str:
    """A tag as JSON.

    Raises:
        InvalidPolicy: it is no JSON data, or too long.
    """
    allowed = f"JSON data of at most {LONGEST_TAG} characters"
    try:
        text = json.dumps(tag, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidPolicy("tag", tag, allowed) from None
    if len(text) > LONGEST_TAG:
        raise InvalidPolicy("tag", tag, allowed)
    return text
