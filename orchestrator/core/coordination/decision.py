"""`Vote` and `Decision`: what a voter says to a proposal, and what all voters are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.checks.text import is_text
from orchestrator.core.errors import InvalidMessage, InvalidPolicy
from orchestrator.core.secrets.masked_repr import summary

#: Longest reason of a vote, in characters. Of longer ones the beginning is kept.
LONGEST_WHY: Final = 200


@dataclass(frozen=True, slots=True)
class Vote:
    """The reply of a voter to a proposal: ``Vote.approve()`` or ``Vote.reject("no memory")``.

    Raises:
        InvalidPolicy: ``why`` is no text.
    """

    approves: bool
    why: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.approves, bool):
            raise InvalidPolicy("approves", self.approves, "True or False")
        if not is_text(self.why):
            raise InvalidPolicy("why", self.why, "a text")
        object.__setattr__(self, "why", self.why[:LONGEST_WHY])

    @classmethod
    def approve(cls, why: str = "") -> Vote:
        """A vote for the proposal."""
        return cls(True, why)

    @classmethod
    def reject(cls, why: str = "") -> Vote:
        """A vote against it, and why."""
        return cls(False, why)

    def to_wire(self) -> dict[str, Any]:
        """As the result of its handler."""
        return {"approves": self.approves, "why": self.why}

    @classmethod
    def from_wire(cls, wire: Any) -> Vote | None:
        """The vote that a handler has returned; ``None`` if that is none."""
        if not isinstance(wire, Mapping) or not isinstance(wire.get("approves"), bool):
            return None
        why: Any = wire.get("why")
        return cls(wire["approves"], why if is_text(why) else "")


class How(StrEnum):
    """The cause of a ballot's decision."""

    #: The votes: no further one could change the decision.
    VOTES = "votes"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of a ballot: made once, and the same for everybody."""

    #: The ballot's id.
    ballot: str
    #: The name of the proposal's message, and its fields as JSON data.
    message: str
    proposal: Mapping[str, Any]
    accepted: bool
    #: The votes that were counted, by voter.
    votes: Mapping[str, Vote] = field(default_factory=dict)
    #: Why a voter has no vote in this: ``timeout``, ``cancelled``, ``not needed`` (it was decided before), ``full`` or
    #: ``open`` (its mailbox did not take the proposal), ``expired``, ``no vote``, or ``dead:`` and why.
    missing: Mapping[str, str] = field(default_factory=dict)
    #: The counts and the rule, as a sentence.
    why: str = ""
    how: How = How.VOTES
    #: When, in seconds since 1970 by the clock of Redis.
    decided_s: float = 0.0

    def __repr__(self) -> str:
        return summary(self, ("ballot", "message", "accepted", "why", "proposal", "votes", "missing"))

    @classmethod
    def from_wire(cls, ballot: str, message: str, proposal: Any, rule: str, decided: Any) -> Decision:
        """A decision, of which ``decided`` is what the script has written that decided.

        Raises:
            InvalidMessage: it is something else.
        """
        try:
            if not (isinstance(decided["accepted"], bool) and is_number(decided["decided_ms"])):
                raise ValueError
            votes = {name: Vote(bool(approves), why) for name, (approves, why) in decided["votes"].items()}
            missing = {str(name): str(why) for name, why in decided["missing"].items()}
            how = How(decided["how"])
            why = _why(decided, how, rule)
            known = str(ballot), str(message), dict(proposal), decided["accepted"]
            return cls(*known, votes, missing, why, how, decided["decided_ms"] / 1000)
        except (KeyError, TypeError, ValueError, AttributeError, InvalidPolicy):
            raise InvalidMessage("Decision", ["allowed: what a ballot's script writes"]) from None


def _why(decided: Mapping[str, Any], how: How, rule: str) -> str:
    approved, rejected, silent, weight = (int(decided[name]) for name in ("approved", "rejected", "silent", "weight"))
    left = weight - approved - rejected - silent
    parts = [f"{approved} of {weight} for it", f"{rejected} against it", f"{silent} silent"]
    parts += [f"{left} not needed"] if left and how is How.VOTES else [f"{left} left"] if left else []
    counts = f"{', '.join(parts)}; needed: {rule}"
    # What is not needed for a proposal that is accepted would not change that, if it were against it.
    voted = approved + rejected + (left if decided["accepted"] else 0)
    if rule.endswith("who vote") and voted:
        counts += f"; got: {approved} of {voted} ({approved / voted:g})"
    if how is How.CANCELLED:
        return f"cancelled{': ' if decided.get('by') else ''}{decided.get('by', '')}; {counts}"
    return counts
