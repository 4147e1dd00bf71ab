"""Declarations of methods that vote."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Agent, Context, Decision, Message, Vote, handles, replies, votes
from orchestrator.agents.declaration import inspect_agent
from orchestrator.core.errors import InvalidDeclaration


class Scale(Message):
    n: int


class Other(Message): ...


def test_a_method_votes_on_a_message_and_another_handles_it() -> None:
    class Node(Agent):
        name = "node"

        @votes(Scale, timeout_s=3)
        def vote(self, proposal: Scale, context: Context) -> Vote:
            return Vote.approve()

        @handles(Scale)
        def scale(self, message: Scale) -> None: ...

        def on_decision(self, decision: Decision) -> None: ...

    spec = inspect_agent(Node)
    assert set(spec.handlers) == {"vote_on_Scale", "Scale", "on_decision"}
    vote = spec.handlers["vote_on_Scale"]
    assert (vote.is_vote, vote.message, vote.takes_context, vote.policy.timeout_s) == (True, Scale, True, 3)
    assert not spec.handlers["on_decision"].takes_context


def test_a_handler_that_is_called_on_decision_and_has_nothing_to_do_with_votes_stays_one() -> None:
    class Node(Agent):
        name = "node"

        @handles(Scale)
        def on_decision(self, message: Scale) -> None: ...

    assert set(inspect_agent(Node).handlers) == {"Scale"}


def _class(**members: Any) -> Any:
    return type("Node", (Agent,), {"name": "node", **members})


def _vote(self: Any, proposal: Scale) -> Vote:
    return Vote.approve()


def _says_yes(self: Any, proposal: Scale) -> bool:
    return True


def _says_nothing(self: Any, proposal: Scale) -> None: ...


def _may_abstain(self: Any, proposal: Scale) -> Vote | None:
    return Vote.approve()


def test_a_method_may_say_that_it_does_not_always_vote() -> None:
    inspect_agent(_class(vote=votes(Scale)(_may_abstain)))


def _takes_a_proposal(self: Any, proposal: Scale) -> None: ...


def _decision(self: Any, decision: Decision) -> None: ...


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"vote": votes(Scale)(lambda self, a: 1), "again": votes(Scale)(lambda self, a: 1)},
         "Node: again and vote both vote on Scale"),
        ({"vote": votes(Scale)(handles(Scale)(lambda self, a: 1))},
         r"Node.vote is marked with @handles\(Scale\) and @votes\(Scale\); allowed: one mark"),
        ({"vote": votes(Scale)(replies(Scale)(lambda self, a: 1))},
         r"marked with @replies\(Scale\) and @votes\(Scale\)"),
        ({"vote": votes(Other)(_vote)}, "Node.vote votes on Other, but takes Scale; allowed: Other"),
        ({"vote": votes(Scale)(_says_yes)},
         r"Node.vote votes on Scale, but returns bool; allowed: Vote.approve\(\) or Vote.reject\(why\)"),
        ({"vote": votes(Scale)(_says_nothing)}, "Node.vote votes on Scale, but returns None"),
        ({"vote": votes(Scale)(lambda self: 1)}, "takes 0 arguments; allowed: message, or message and context"),
        ({"vote": votes(Scale, timeout_s=-1)(lambda self, a: 1)}, "Node.vote: timeout_s=-1 is not allowed"),
        ({"on_decision": _decision, "x": handles(Other)(lambda self, a: 1)},
         r"Node.on_decision: never called; allowed: beside a method marked with @votes\(SomeMessage\)"),
        ({"on_decision": votes(Scale)(lambda self, a: 1)},
         r"Node.on_decision is called with a Decision, and is marked with @votes\(Scale\)"),
        ({"vote": votes(Scale)(lambda self, a: 1), "on_decision": _takes_a_proposal},
         "Node.on_decision is called with a Decision, but takes Scale; allowed: Decision"),
        ({"vote": votes(Scale)(lambda self, a: 1), "on_decisions": _decision},
         "Node.on_decisions: never called; did you mean 'on_decision'"),
    ],
)  # fmt: skip
def test_a_mistaken_declaration_is_named(members: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidDeclaration, match=text):
        inspect_agent(_class(**members))


@pytest.mark.parametrize("message", ["Scale", int, None])
def test_only_messages_are_voted_on(message: Any) -> None:
    with pytest.raises(InvalidDeclaration, match="allowed: a subclass of Message"):
        votes(message)
