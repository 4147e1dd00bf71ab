"""What a singleton's class may say, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Agent, Context, InvalidDeclaration, Message, Term, handles
from orchestrator.agents.declaration import inspect_agent
from orchestrator.agents.singleton import ELECTED, term_message
from tests.support.coordination_under_test import make


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


def test_in_eager_mode_it_is_called_before_its_first_message_and_after_each_death() -> None:
    seen: list[str] = []

    class Beat(Agent):
        name = "beat"
        singleton = True

        @handles(Tick)
        def tick(self, message: Tick, context: Context) -> None:
            term = orchestrator.election(Beat).leader()
            assert term is not None
            assert context.term == term
            seen.append(f"tick {term.leader}")

        def on_elected(self, term: Term, context: Context) -> None:
            seen.append(f"elected {term.leader} {term.number > 0}")

        def on_deposed(self, term: Term) -> None:
            seen.append(f"deposed {term.leader} {term.reason}")

    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    orchestrator.host(Beat)
    try:
        assert orchestrator.election(Beat).leader() is None
        orchestrator.send(Beat, Tick())
        orchestrator.send(Beat, Tick())
        assert seen == ["elected beat@eager#1 True", "tick beat@eager#1", "tick beat@eager#1"]
        monitors: Any = orchestrator.monitors
        monitors.declare_dead("beat", "oom")
        last = orchestrator.election(Beat).last_term()
        assert last is not None
        assert last.reason == "oom"
        monitors.revive("beat")
        orchestrator.send(Beat, Tick())
        assert seen[3:] == ["deposed beat@eager#1 oom", "elected beat@eager#2 True", "tick beat@eager#2"]
    finally:
        orchestrator.app.close()


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
        ({"singleton": True, "on_deposed": takes_tick}, "Cron.on_deposed is called with a Term, but takes Tick"),
        ({"singleton": True, "on_elected": lambda self: None}, "Cron.*takes 0 arguments"),
        ({"singletons": True}, "no such setting; did you mean 'singleton'?"),
    ],
)
def test_a_mistake_is_named(attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidDeclaration, match=text):
        inspect_agent(declare(**attributes))
