"""What a singleton's class may say, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Agent, Context, InvalidDeclaration, Message, Term, handles
from orchestrator.agents.agent import inspect_agent
from orchestrator.agents.singleton import ELECTED, term_message


class Tick(Message): ...


class Cron(Agent):
    name = "cron"
    singleton = True

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @handles(Tick)
    def tick(self, message: Tick) -> None: ...

    def on_elected(self, term: Term, context: Context) -> None:
        self.seen.append((term, context))

    def on_deposed(self, term: Term) -> None:
        self.seen.append(term)


def declare(**attributes: Any) -> type[Agent]:
    return type("Cron", (Agent,), {"name": "cron", "tick": Cron.tick, **attributes})


def test_a_singletons_methods_are_called_with_the_term() -> None:
    spec, agent = inspect_agent(Cron), Cron()
    assert (spec.singleton, spec.election) == (True, "singleton:cron")
    term = Term("singleton:cron", 7, "w@h:1#2", 1.5, "killed", 2.5)
    context: Any = object()
    for name in ("on_elected", "on_deposed"):
        spec.call(agent, spec.handlers[name], term_message(name, term), context)
    assert agent.seen == [(term, context), term]
    assert term_message(ELECTED, term).__class__.__name__ == "on_elected"


def test_other_agents_have_no_election() -> None:
    spec = inspect_agent(declare())
    assert (spec.singleton, spec.election) == (False, "")


def takes_tick(self: Any, message: Tick) -> None: ...


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"singleton": 1}, "Cron.singleton=1; allowed: True, False"),
        ({"singleton": "yes"}, "Cron.singleton='yes'; allowed: True, False"),
        ({"on_elected": Cron.on_elected}, "Cron.on_elected: never called; allowed: with singleton = True"),
        ({"singleton": True, "on_deposed": takes_tick}, "Cron.on_deposed is called with a term, but takes Tick"),
        ({"singleton": True, "on_elected": lambda self: None}, "Cron.*takes 0 arguments"),
        ({"singletons": True}, "no such setting; did you mean 'singleton'?"),
    ],
)
def test_a_mistake_is_named(attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidDeclaration, match=text):
        inspect_agent(declare(**attributes))
