"""The examples of docs/calls.md really run."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    Agent,
    AgentDown,
    Breaker,
    BrokerUnavailable,
    CircuitOpen,
    DeadlinePassed,
    MailboxFull,
    Message,
    Orchestrator,
    Retry,
    handles,
)
from tests.support.cluster import NO_REDIS
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "calls.md").read_text(encoding="utf-8")
BLOCKS = [part.split("```")[0] for part in PAGE.split("```python\n")[1:]]


def example(beginning: str, **names: Any) -> dict[str, Any]:
    """The names that the one example with this text makes."""
    (source,) = [block for block in BLOCKS if beginning in block]
    exec(compile(source, "docs/calls.md", "exec"), names)
    return names


def saga() -> dict[str, Any]:
    """The names of the example of a saga."""
    path = ROOT / "docs" / "examples" / "saga.py"
    said: dict[str, Any] = {"__name__": "saga"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), said)
    return said


def eager() -> Orchestrator:
    """An app of its own, in eager mode."""
    app = Celery("calls", set_as_current=False, broker=NO_REDIS)
    app.conf.task_always_eager = True
    return Orchestrator(app)


def test_the_page_begins_with_what_a_failover_can_do_and_what_a_fence_is_for() -> None:
    first = PAGE.split("| | waits | where |")[0]
    for said in ("failover", "fencing token", "min-replicas-to-write"):
        assert said in first


def test_a_reply_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    page = example("class Shop", __name__="page")
    orchestrator = eager()
    orchestrator.host(page["Shop"], page["Billing"])
    orchestrator.send("shop", page["Order"](id="o1"))
    assert capsys.readouterr().out == "o1 costs 100\n"


def test_a_price_that_falls_back() -> None:
    page = example("class Shop", __name__="page")
    orchestrator = eager()
    orchestrator.host(page["Shop"], page["Billing"], type("Europe", (page["Billing"],), {"name": "billing-eu"}))
    assert example("fallback=[Ask", orchestrator=orchestrator, Quote=page["Quote"])["price"] == 100
    assert example("asked.reply()", orchestrator=orchestrator, Quote=page["Quote"])["price"] == 100


def test_a_hedged_search() -> None:
    orchestrator = eager()
    page = example(
        "class Search", Agent=Agent, Message=Message, handles=handles, orchestrator=orchestrator, __name__="page"
    )
    orchestrator.host(page["Index"])
    assert page["find"]("b a") == ["a", "b"]


class Steps:
    """The agents that the saga calls; those named in ``failing`` fail."""

    def __init__(self, page: dict[str, Any], *failing: str) -> None:
        self.seen: list[str] = []
        self.orchestrator = eager()
        names = ("payments", "hotels", "hostels", "flights", "weather")
        self.orchestrator.host(page["Trips"], *[self._agent(page, name, name in failing) for name in names])

    def _agent(self, page: dict[str, Any], agent: str, fails: bool) -> type[Agent]:
        def handle(_agent: Any, message: Message) -> str:
            self.seen.append(f"{agent}.{type(message).__name__}")
            if fails and not isinstance(message, page["Release"]):
                raise ValueError(f"no {agent}")
            return agent

        def handler(message: type[Message]) -> Any:
            def own(me: Any, message: Message) -> str:
                return handle(me, message)

            return handles(message, retry=Retry(max_retries=0))(own)

        methods = {name: handler(page[name]) for name in ("Reserve", "Release", "Weather", "Pay")}
        return type(agent, (Agent,), {"name": agent, "breaker": Breaker(failures=5), **methods})

    def book(self, page: dict[str, Any]) -> Any:
        """Book a trip; returns the result."""
        return self.orchestrator.send("trips", page["Book"](trip="t")).wait(timeout_s=1)


def test_a_saga_in_which_all_goes_well() -> None:
    page = saga()
    steps = Steps(page)
    assert steps.book(page).result == {
        "booked": True, "hotel": "hotels", "flight": "flights", "forecast": "weather", "paid": "payments"
    }  # fmt: skip
    assert steps.seen == ["hotels.Reserve", "flights.Reserve", "weather.Weather", "payments.Pay"]


def test_a_saga_goes_on_with_its_fallbacks() -> None:
    page = saga()
    steps = Steps(page, "hotels", "weather", "payments")
    result = steps.book(page).result
    assert (result["hotel"], result["forecast"], result["paid"]) == ("hostels", None, "later")
    assert steps.seen.count("payments.Pay") == 2


RELEASES = [f"{agent}.Release" for agent in ("hotels", "hostels", "flights", "payments")]


def test_a_saga_is_taken_back() -> None:
    page = saga()
    steps = Steps(page, "flights")
    assert steps.book(page).result["booked"] is False
    assert steps.seen == ["hotels.Reserve", "flights.Reserve", *RELEASES]


@pytest.mark.parametrize(
    "error",
    [
        AgentDown("flights"), CircuitOpen("flights", 5.0), MailboxFull("flights", depth=9, limit=9),
        DeadlinePassed("flights.Reserve", 1.0),
        BrokerUnavailable("redis://", "away for a moment"), OSError("no route to its network"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_saga_is_taken_back_whatever_the_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the room was kept when flights was down or its breaker open."""
    page = saga()
    steps = Steps(page)
    call = Orchestrator.call

    def fails(self: Orchestrator, agent: Any, *args: Any, **options: Any) -> Any:
        if agent == "flights":
            raise error
        return call(self, agent, *args, **options)

    monkeypatch.setattr(Orchestrator, "call", fails)
    assert steps.book(page).result == {"booked": False, "why": str(error)}
    assert steps.seen == ["hotels.Reserve", *RELEASES]


def test_a_saga_is_taken_back_past_open_breakers() -> None:
    page = saga()
    steps = Steps(page)
    for agent in ("hotels", "flights"):
        steps.orchestrator.breakers.isolate(agent, why="test")
    assert steps.book(page).result["booked"] is False
    assert steps.seen == ["hostels.Reserve", "hostels.Release", "payments.Release"]
    for agent in ("hotels", "flights"):
        steps.orchestrator.breakers.close(agent)
    assert steps.seen[3:] == ["hotels.Release", "flights.Release"]


def test_a_saga_is_paid_later_if_the_breaker_of_payments_is_open() -> None:
    page = saga()
    steps = Steps(page)
    steps.orchestrator.breakers.isolate("payments", why="test")
    assert steps.book(page).result["paid"] == "later"


def test_a_conversation_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = example("class Shop", __name__="page")
    orchestrator = eager()
    orchestrator.host(page["Shop"], page["Billing"])
    talk = example("conversation(", orchestrator=orchestrator, Order=page["Order"])["talk"]
    assert talk.agents == ("shop", "billing")
    assert "o1 costs 100" in capsys.readouterr().out
