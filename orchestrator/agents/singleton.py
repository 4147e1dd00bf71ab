"""Singletons: agents of which only the incarnation that leads claims messages, and what they are called with."""

from __future__ import annotations

from typing import Final

from pydantic import create_model

from orchestrator.agents.hooks import Hook
from orchestrator.core.coordination.term import Term
from orchestrator.core.message import Message

#: The methods that are called with a term, by the messages of these names.
ELECTED: Final = Hook.ELECTED.value
DEPOSED: Final = Hook.DEPOSED.value


#: The beginning of the names of their elections.
SINGLETON: Final = "singleton:"


def singleton_election(agent: str) -> str:
    """The name of the election of a singleton."""
    return f"{SINGLETON}{agent}"


class TermFields(Message):
    """The fields of a term; see :class:`orchestrator.core.coordination.term.Term`."""

    election: str
    number: int
    leader: str
    since_s: float
    reason: str = ""
    ended_s: float | None = None

    def term(self) -> Term:
        """The term."""
        return Term(self.election, self.number, self.leader, self.since_s, self.reason, self.ended_s)


#: The messages themselves.
TERM_MESSAGES: Final = {name: create_model(name, __base__=TermFields) for name in (ELECTED, DEPOSED)}


def term_message(name: str, term: Term) -> Message:
    """The message that has a singleton called with a term."""
    fields = {"election": term.election, "number": term.number, "leader": term.leader, "since_s": term.since_s}
    return TERM_MESSAGES[name](**fields, reason=term.reason, ended_s=term.ended_s)
