"""Conversations in eager mode: who belongs to one, and what one may say."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from celery import Celery

from orchestrator import Agent, Context, InvalidPolicy, Message, Orchestrator, Reply, UnknownAgent, handles, replies
from orchestrator.core.calls.conversation import CURRENT, Conversation
from orchestrator.sending.calls.call_counts import CallCounts
from tests.support.cluster import NO_REDIS


class Hello(Message):
    pass


class Onward(Message):
    pass


class Speaker(Agent):
    name = "speaker"
    heard: ClassVar[list[tuple[str, Conversation | None]]] = []

    @handles(Hello)
    def hello(self, _message: Hello, context: Context) -> None:
        self.heard.append(("hello", context.conversation))
        context.orchestrator.send("speaker", Onward())
        context.ask("speaker", Onward(), timeout_s=5, then=True)

    @handles(Onward)
    def onward(self, _message: Onward, context: Context) -> str:
        self.heard.append(("onward", context.conversation))
        return "on"

    @replies(Onward)
    def replied(self, _reply: Reply, context: Context) -> None:
        self.heard.append(("replied", context.conversation))


@pytest.fixture
def orchestrator() -> Orchestrator:
    Speaker.heard.clear()
    app = Celery("conversations", set_as_current=False, broker=NO_REDIS)
    app.conf.task_always_eager = True
    made = Orchestrator(app)
    made.host(Speaker)
    return made


def test_what_is_sent_within_belongs_to_it(orchestrator: Orchestrator) -> None:
    with orchestrator.conversation([Speaker], {"type": "collaborate"}) as talk:
        orchestrator.send("speaker", Hello())
    assert (talk.agents, talk.data) == (("speaker",), {"type": "collaborate"})
    assert Speaker.heard == [("hello", talk), ("onward", talk), ("onward", talk), ("replied", talk)]
    orchestrator.send("speaker", Hello())
    assert {conversation for _, conversation in Speaker.heard[4:]} == {None}
    assert CURRENT.get() is None


def test_a_conversation_within_a_conversation(orchestrator: Orchestrator) -> None:
    with orchestrator.conversation() as outer, orchestrator.conversation() as inner:
        orchestrator.send("speaker", Onward())
        assert Speaker.heard == [("onward", inner)]
        assert inner.id != outer.id


@pytest.mark.parametrize("data", ["text", [1], {"a": object()}, {"a": float("nan")}, {"a": "x" * 1000}])
def test_data_that_is_refused(orchestrator: Orchestrator, data: Any) -> None:
    with pytest.raises(InvalidPolicy, match="data="), orchestrator.conversation([], data):
        pass


@pytest.mark.parametrize("agents", ["speaker", 5, ["speaker"] * 101])
def test_agents_that_are_refused(orchestrator: Orchestrator, agents: Any) -> None:
    with pytest.raises(InvalidPolicy, match="agents="), orchestrator.conversation(agents):
        pass


def test_an_unknown_agent_is_named(orchestrator: Orchestrator) -> None:
    with pytest.raises(UnknownAgent, match="did you mean 'speaker'"), orchestrator.conversation(["speeker"]):
        pass
    assert CURRENT.get() is None


def test_what_others_have_written_is_no_conversation() -> None:
    for wire in ({}, {"id": 1, "agents": [], "data": {}}, {"id": "a", "agents": "b", "data": {}}):
        assert Conversation.from_wire(wire) is None


def test_asks_are_counted(orchestrator: Orchestrator) -> None:
    orchestrator.send("speaker", Hello())
    assert orchestrator.call_counts() == [CallCounts("speaker", asked=1, handled=1)]
    assert orchestrator.call_counts()[0].open == 0
