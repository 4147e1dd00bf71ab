"""`@replies`, and what asks in eager mode come to."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import (
    Agent,
    Context,
    Dead,
    Handled,
    InvalidDeclaration,
    InvalidMessage,
    InvalidPolicy,
    NoOwner,
    Orchestrator,
    Reply,
    SendFailed,
    UnknownAgent,
    handles,
    replies,
)
from orchestrator.core.calls.reply import check_tag
from orchestrator.core.errors import DeliveryTimeout
from tests.apps import calls_app
from tests.apps.calls_app import NOTED, Order, Quote, Silent
from tests.support.cluster import NO_REDIS


@pytest.fixture
def orchestrator() -> Orchestrator:
    NOTED.clear()
    return calls_app.make(NO_REDIS, eager=True)


def host(*agents: type[Agent]) -> None:
    calls_app.make(NO_REDIS, eager=True).host(*agents)


def test_a_reply_is_delivered_with_its_tag(orchestrator: Orchestrator) -> None:
    outcome: Any = orchestrator.send("shop", Order(number=3, count=2)).wait(timeout_s=1)
    first, second = outcome.result
    assert [
        {"id": first, "tag": {"number": 3}, "result": 6, "error": ""},
        {"id": second, "tag": {"number": 4}, "result": 8, "error": ""},
    ] == NOTED


def test_a_failure_is_a_reply_too(orchestrator: Orchestrator) -> None:
    orchestrator.send("shop", Order(how="fails"))
    (said,) = NOTED
    assert "no price" in said["error"]
    assert said["result"] is None
    assert orchestrator.dead_letters.count() == 0


@pytest.mark.parametrize(("how", "why"), [("odd", "not JSON data"), ("large", "result of 3000002 bytes")])
def test_a_result_that_cannot_be_in_a_reply_is_an_error(orchestrator: Orchestrator, how: str, why: str) -> None:
    orchestrator.send("shop", Order(how=how))
    assert why in NOTED[0]["error"]
    assert [letter.agent for letter in orchestrator.dead_letters.list(10)] == ["billing"]


def test_a_breaker_and_a_bound_of_the_asker_let_replies_pass(orchestrator: Orchestrator) -> None:
    orchestrator.send("bounded", Order(number=1))
    assert [said["result"] for said in NOTED] == [2]


def test_asking_an_unknown_agent_asks_nothing(orchestrator: Orchestrator) -> None:
    orchestrator.app.conf.task_eager_propagates = True
    with pytest.raises(UnknownAgent, match="did you mean 'billing'"):
        orchestrator.send("shop", Order(agent="biling"), retry=None)
    assert NOTED == []


def test_asking_without_a_method_for_the_replies(orchestrator: Orchestrator) -> None:
    orchestrator.app.conf.task_eager_propagates = True
    with pytest.raises(InvalidDeclaration, match=r"'shop' asks with Silent .* allowed: .*@replies\(Silent\)"):
        orchestrator.send("shop", Silent())


class Asks(Agent):
    name = "asks"

    @handles(Quote)
    def quote(self, message: Quote, context: Context) -> None:
        context.ask("billing", message, timeout_s=1, then=True)


def test_an_agent_that_asks_and_has_no_replies_is_not_hosted() -> None:
    with pytest.raises(InvalidDeclaration, match=r"Asks\.quote asks with then=True.*@replies"):
        host(Asks)


class Both(Agent):
    name = "both"

    @replies(Quote)
    @handles(Quote)
    def quote(self, reply: Any) -> None: ...


class Twice(Agent):
    name = "twice"

    @replies(Quote)
    def one(self, reply: Reply) -> None: ...

    @replies(Quote)
    def other(self, reply: Reply) -> None: ...


class Annotated(Agent):
    name = "annotated"

    @replies(Quote)
    def quote(self, reply: Quote) -> None: ...


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (Both, r"marked with @.*\) and @.*; allowed: one mark"),
        (Twice, "both get the replies to Quote"),
        (Annotated, "takes Quote"),
    ],
)
def test_mistakes_in_declarations(agent: type[Agent], why: str) -> None:
    with pytest.raises(InvalidDeclaration, match=why):
        host(agent)
    with pytest.raises(InvalidDeclaration, match="subclass of Message"):
        replies(str)  # type: ignore[arg-type]


def test_who_has_no_orchestrator_asks_nobody() -> None:
    context = Context("id", "shop", 1, "worker", False)
    with pytest.raises(NoOwner, match="this thread has no owner for an ask; allowed: inside an agent's handler"):
        context.ask("billing", Quote(number=1), timeout_s=1, then=True)


@pytest.mark.parametrize("tag", [object(), float("nan"), "x" * 999, {"a": {1, 2}}])
def test_tags_that_are_refused(orchestrator: Orchestrator, tag: Any) -> None:
    context = Context("id", "shop", 1, "worker", False, orchestrator=orchestrator)
    with pytest.raises(InvalidPolicy, match=r"tag=.*JSON data of at most 1000 characters"):
        context.ask("billing", Quote(number=1), timeout_s=1, then=True, tag=tag)
    assert orchestrator.ledger() == []


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), "5", True, None])
def test_time_outs_that_are_refused(orchestrator: Orchestrator, timeout_s: Any) -> None:
    context = Context("id", "shop", 1, "worker", False, orchestrator=orchestrator)
    with pytest.raises(InvalidPolicy, match="timeout_s="):
        context.ask("billing", Quote(number=1), timeout_s=timeout_s, then=True)
    with pytest.raises(InvalidPolicy, match="then=False"):
        context.ask("billing", Quote(number=1), timeout_s=1, then=False)  # type: ignore[arg-type]
    assert orchestrator.ledger() == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tags": ["one"]}, "tags='1 of them' is not allowed; allowed: one for each of the 2 messages"),
        ({"tags": "ab"}, "tags='ab' is not allowed; allowed: a list"),
        ({"tags": [1, object()]}, "tag=.*JSON data"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"on_death": "never"}, "on_death='never'"),
        ({"then": False}, "then=False"),
        ({"messages": [Quote(number=1), "x"]}, "message='x'"),
        ({"agent": 5}, "recipient=5"),
    ],
)
def test_many_asks_that_are_refused(orchestrator: Orchestrator, options: dict[str, Any], why: str) -> None:
    context = Context("id", "shop", 1, "worker", False, orchestrator=orchestrator)
    quotes = [Quote(number=1), Quote(number=2)]
    asked: dict[str, Any] = {"agent": "billing", "messages": quotes, "timeout_s": 1, "then": True} | options
    with pytest.raises(InvalidPolicy, match=why):
        context.ask_many(**asked)
    assert orchestrator.ledger() == []


def test_many_asks_are_replied_to_one_by_one(orchestrator: Orchestrator) -> None:
    orchestrator.send("shop", Order(number=3, count=3, many=True))
    assert [(said["tag"]["number"], said["result"]) for said in NOTED] == [(3, 6), (4, 8), (5, 10)]
    context = Context("id", "shop", 1, "worker", False, orchestrator=orchestrator)
    assert context.ask_many("billing", [], timeout_s=1, then=True) == []
    unowned = Context("id", "shop", 1, "worker", False)
    with pytest.raises(NoOwner, match="ask_many"):
        unowned.ask_many("billing", [], timeout_s=1, then=True)


def test_a_tag_at_its_limit() -> None:
    assert len(check_tag("x" * 998)) == 1000


def test_what_a_reply_says() -> None:
    wire = {"id": "r", "agent": "a", "message": "M", "tag": [1]}
    handled = Reply.from_wire({**wire, "outcome": {"outcome": "handled", "result": 7}})
    assert (handled.result, handled.error, handled.tag) == (7, None, [1])
    assert isinstance(handled.outcome, Handled)
    dead = Reply.from_wire({**wire, "outcome": {"outcome": "dead", "reason": "timeout", "error": "E"}})
    assert isinstance(dead.error, SendFailed)
    assert isinstance(dead.outcome, Dead)
    late = Reply.from_wire({**wire, "outcome": {"outcome": "timeout", "timeout_s": 2}})
    assert isinstance(late.error, DeliveryTimeout)
    assert (late.outcome, late.error.timeout_s) == (None, 2)
    for wrong in ({}, {**wire, "outcome": 1}, {**wire, "outcome": {"outcome": "odd"}}, {**wire, "id": 1}):
        with pytest.raises(InvalidMessage, match="Reply"):
            Reply.from_wire(wrong)
