"""A process that distributes and proposes messages with sets: ``python -m tests.support.set_sender URL``.

It prints the id of what was accepted under its keys, by this process or by one before it.
"""

from __future__ import annotations

import sys

from pydantic import BaseModel, ConfigDict

from orchestrator import Agent, Majority, Message, Vote, handles, votes
from tests.support.living_agents import live, make


class Place(BaseModel):
    """A place."""

    model_config = ConfigDict(frozen=True)
    street: str


class Visit(Message):
    """A message with sets."""

    tags: frozenset[str]
    places: frozenset[Place]
    by_day: dict[str, set[str]]


class Visitor(Agent):
    """An agent of whom nobody claims."""

    name = "visitor"

    @handles(Visit)
    def visit(self, message: Visit) -> None:
        """Do nothing."""

    @votes(Visit)
    def vote(self, message: Visit) -> Vote:
        """Approve."""
        return Vote.approve()


def _main(url: str) -> None:
    orchestrator = make(url, Visitor)
    live(orchestrator, "visitor")
    words = [f"word-{number}" for number in range(20)]
    visit = Visit(
        tags=frozenset(words),
        places=frozenset(Place(street=word) for word in words),
        by_day={"monday": set(words)},
    )
    report = orchestrator.distribute([visit], to=["visitor"], idempotency_key="once")
    ballot = orchestrator.propose(visit, ["visitor"], Majority(), id="b1")
    print(list(visit.tags)[0], report.id, ballot.id)  # noqa: T201, RUF015


if __name__ == "__main__":
    _main(*sys.argv[1:])
