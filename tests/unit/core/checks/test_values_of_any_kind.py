"""A value of whatever kind is refused with an error of this library, and shown in a short text."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any

import pytest

from orchestrator import (
    Agent,
    Ask,
    Breaker,
    Context,
    Mailbox,
    Majority,
    Message,
    Orchestrator,
    Quorum,
    Vote,
    handles,
    votes,
)
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy, OrchestratorError, UnknownAgent
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.nearest import meant, nearest
from tests.apps.shop import make


class Charge(Message):
    cents: int = 1


class Billing(Agent):
    name = "billing"
    breaker = Breaker(failures=5)

    @handles(Charge)
    def charge(self, message: Charge) -> int:
        if message.cents < 0:
            raise ValueError(message.cents)
        return message.cents

    @votes(Charge)
    def vote(self, message: Charge) -> Vote:
        return Vote.approve()


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


def nested() -> list[Any]:
    made: list[Any] = []
    for _ in range(5000):
        made = [made]
    return made


ODD = {
    "huge": 10**5000, "negative": -(10**5000), "in a list": [10**5000], "nested": nested(), "unshowable": Unshowable(),
    "list of it": [Unshowable()], "as a key": {Unshowable(): 1}, "surrogate": "\ud800",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop() -> Orchestrator:
    orchestrator = make("redis://127.0.0.1:1/0", hosts=False)
    orchestrator.app.conf.task_always_eager = True
    orchestrator.host(Billing)
    return orchestrator


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_any_value_can_be_shown(value: Any) -> None:
    """Regression: a number of more than 4,300 digits, nested data and an object without a repr raised errors."""
    shown = masked_repr(value)
    assert 0 < len(shown) <= 200
    assert shown.encode()


def test_what_cannot_be_shown_is_named_by_its_type() -> None:
    assert masked_repr(10**5000) == "<int of about 5001 digits>"
    assert masked_repr(nested()) == "<list: nested too deeply>"
    assert masked_repr(Unshowable()) == "<Unshowable: RuntimeError in its repr>"


USES: dict[str, Callable[[Orchestrator, Any], Any]] = {
    "wait_s": lambda o, odd: o.lease("a", wait_s=odd),
    "permits": lambda o, odd: o.semaphore("a", odd),
    "quorum": lambda o, odd: o.propose(Charge(), ["billing"], Quorum(odd)),
    "timeout_s": lambda o, odd: o.call("billing", Charge(), timeout_s=odd),
    "failures": lambda _, odd: Breaker(failures=odd),
    "overflow": lambda _, odd: Mailbox(5, overflow=odd),
    "broadcast": lambda o, odd: o.broadcast(["billing"], Charge(), strategy=odd),
    "distribute": lambda o, odd: o.distribute([Charge()], ["billing"], strategy=odd),
    "when_open": lambda o, odd: o.send("billing", Charge(), when_open=odd),
    "on_death": lambda o, odd: o.call("billing", Charge(), timeout_s=1, on_death=odd),
    "of a barrier": lambda o, odd: o.barrier("a", 2, on_death=odd),
    "silent": lambda o, odd: o.propose(Charge(), ["billing"], Majority(), silent=odd),
    "structure": lambda o, odd: o.hierarchy("h", {"billing": odd} if isinstance(odd, str | int) else odd),
    "below": lambda o, odd: o.hierarchy("h", {"billing": [odd]}),
    "ballot": lambda o, odd: o.coordination.ballot(odd),
    "agent": lambda o, odd: o.send(odd, Charge()),
    "Ask": lambda o, odd: o.call("billing", Charge(cents=-1), timeout_s=1, fallback=[Ask(odd)]),
    "conversation": lambda o, odd: o.conversation([odd]).__enter__(),
    "check_in": lambda o, odd: _in_session(o, lambda: o.pool("p", ["a"]).check_in(odd)),
    "delete": lambda o, odd: o.hierarchies.delete(odd),
    "observe": lambda o, odd: o.election("e").observe(after=Term("e", odd, "x", 0.0)),
    "reentrant": lambda o, odd: o.lease("a", reentrant=odd),
    "host": lambda o, odd: o.host(odd),
    "schedules": lambda o, odd: o.schedules[odd],
    "workflow": lambda o, odd: o.workflows.get(odd),
}


def _in_session(orchestrator: Orchestrator, use: Callable[[], Any]) -> Any:
    with orchestrator.monitors.session():
        return use()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_odd_value_is_refused_with_an_error_of_this_library(
    shop: Orchestrator, use: Callable[[Orchestrator, Any], Any]
) -> None:
    for odd in ODD.values():
        with pytest.raises(OrchestratorError) as refused:
            use(shop, odd)
        assert 0 < len(str(refused.value).encode()) < 2000


@pytest.mark.parametrize("odd", [None, object, {}, [], 5, b"a", "", "\ud800"], ids=repr)
def test_a_name_is_a_text(shop: Orchestrator, odd: Any) -> None:
    """Regression: `BrokerUnavailable` although Redis was well, or a TypeError in eager mode."""
    with shop.monitors.session(), pytest.raises(InvalidPolicy, match=r"resource=.*; allowed: a text"):
        shop.pool("p", ["a"]).check_in(odd)
    with pytest.raises(InvalidPolicy, match=r"name=.*; allowed: a text"):
        shop.hierarchies.delete(odd)


@pytest.mark.parametrize("number", [None, "abc", "1", 1.5, True, -1, 10**30, {}, b"1"], ids=repr)
def test_a_term_has_a_number(shop: Orchestrator, number: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"after\.number=.*; allowed: a whole number"):
        shop.election("e").observe(after=Term("e", number, "x", 0.0))


@pytest.mark.parametrize("agent", [None, 5, {}, [], Charge, Charge(), b"billing"], ids=repr)
def test_an_agent_is_a_name_or_a_class(shop: Orchestrator, agent: Any) -> None:
    """Regression: an AttributeError or a TypeError."""
    with pytest.raises(InvalidPolicy, match=r"allowed: .*names or Agent classes"):
        shop.conversation([agent]).__enter__()
    with pytest.raises(InvalidPolicy, match=r"allowed: an agent's name, (or )?an Agent class"):
        shop.call("billing", Charge(), timeout_s=1, fallback=[Ask(agent)])
    with pytest.raises(InvalidPolicy, match=r"allowed: an agent's name, an Agent class"):
        shop.call(agent, Charge(), timeout_s=1, fallback=[Ask("billing")])


@pytest.mark.parametrize("value", ["no", 0, 1, None, "", []], ids=repr)
def test_what_is_true_or_false_is_no_other_value(shop: Orchestrator, value: Any) -> None:
    """Regression: ``"no"`` was true."""
    runs: Any = shop.workflows
    said = "is not allowed; allowed: True or False"
    with pytest.raises(InvalidPolicy, match=f"reentrant=.*{said}"):
        shop.lease("a", reentrant=value)
    with pytest.raises(InvalidPolicy, match=f"flush=.*{said}"), shop.monitors.session():
        shop.monitors.demonitor(1, flush=value)
    with pytest.raises(InvalidPolicy, match=f"check_only=.*{said}"):
        shop.dead_letters.import_lines([], check_only=value)
    from orchestrator.schedules.schedule import Schedule
    from orchestrator.workflows.run import Run

    run, schedule = Run("u", "r", lambda: runs), Schedule.__new__(Schedule)
    with pytest.raises(InvalidPolicy, match=f"compensate=.*{said}"):
        run.cancel(compensate=value)
    with pytest.raises(InvalidPolicy, match=f"force=.*{said}"):
        run.delete(force=value)
    with pytest.raises(InvalidPolicy, match=f"catch_up=.*{said}"):
        schedule.resume(catch_up=value)


def test_a_long_name_is_refused_at_once(shop: Orchestrator) -> None:
    """Regression: 10 MB were compared with each known name, for seconds."""
    name, began_s = "billing" * 1_500_000, process_time()
    with pytest.raises(UnknownAgent, match="billingbilling"):
        shop.call(name, Charge(), timeout_s=1)
    assert nearest(name, ["billing"]) == ""
    assert process_time() - began_s < 1


def test_only_a_text_is_like_a_name() -> None:
    odd: Any = nested()
    assert meant(odd, ["billing"]) == ""


def test_all_faults_of_a_hierarchy_are_shown_in_a_short_text(shop: Orchestrator) -> None:
    """Regression: the text held the whole value."""
    for structure in ("x" * 1_000_000, {"billing": "x" * 1_000_000}, {"x" * 1_000_000: 5}, list(range(9999))):
        with pytest.raises(InvalidDeclaration) as refused:
            shop.hierarchy("h", structure)
        assert len(str(refused.value)) < 3000
    assert "and 9979 more" in str(refused.value)


@pytest.mark.parametrize("name", ["on_elected", "on_deposed", "on_decision", "on_down", "on_cancelled"])
@pytest.mark.parametrize("value", [5, "method", [print]], ids=repr)
def test_a_method_that_is_called_by_its_name_is_one(shop: Orchestrator, name: str, value: Any) -> None:
    """Regression: it was accepted, and never called; or there was a TypeError."""
    odd = type("Odd", (Billing,), {"name": "odd", "singleton": True, name: value})
    with pytest.raises(InvalidDeclaration, match=rf"Odd\.{name}=.*; allowed: a method"):
        shop.host(odd)


@pytest.mark.parametrize("name", ["on_elected", "on_deposed", "on_decision"])
def test_a_method_of_a_base_class_may_be_switched_off(name: str) -> None:
    class Base(Billing):
        singleton = True

        def on_elected(self, term: Term, context: Context) -> None: ...

        on_deposed = on_elected

        def on_decision(self, decision: Any) -> None: ...

    orchestrator = make("redis://127.0.0.1:1/0", hosts=False)
    orchestrator.host(type("Off", (Base,), {"name": "off", name: None}))
