"""What is sent in a way that is not the one for it gets an error that names the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Agent, InvalidPolicy, Message, Orchestrator, UnknownMessage, Vote, Workflow, handles, votes
from tests.support.living_agents import close, make


class Price(Message):
    cents: int


class Other(Message): ...


class Pricer(Agent):
    name = "pricer"

    @votes(Price)
    def vote(self, proposal: Price) -> Vote:
        return Vote.approve()

    @handles(Other)
    def other(self, message: Other) -> None: ...


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    made = make("redis://127.0.0.1:1/0", Pricer, eager=True)
    yield made
    close(made)


@pytest.mark.parametrize("way", ["send", "call"])
def test_a_proposal_that_is_sent(orchestrator: Orchestrator, way: str) -> None:
    options: dict[str, Any] = {"timeout_s": 1} if way == "call" else {}
    with pytest.raises(UnknownMessage) as error:
        getattr(orchestrator, way)("pricer", Price(cents=1), **options)
    assert str(error.value).endswith("; allowed: orchestrator.propose, because the agent votes on Price")


def test_a_workflow_that_is_scheduled(orchestrator: Orchestrator) -> None:
    flow: Any = Workflow("replenish")
    with pytest.raises(InvalidPolicy, match="a workflow is started by an agent's handler"):
        orchestrator.schedules.add("s", flow, every_s=5)


@pytest.mark.parametrize(
    ("give", "names"),
    [
        (
            lambda o: o.distribute([Other()], to=["pricer"], tos=1),
            "items, metadata, on_error, priority, retry, strategy, ",
        ),
        (lambda o: o.broadcast(["pricer"], Other(), how=1), "recipients, retry, strategy, timeout_s"),
        (lambda o: o.send_many("pricer", [Other()], prio=1), "messages, metadata, on_error, priority, recipient"),
        (lambda o: o.send("pricer", Other(), prio=1), "message, metadata, on_error, priority, recipient, retry"),
    ],
    ids=["distribute", "broadcast", "send_many", "send"],
)
def test_an_unknown_option_is_answered_with_all_parameters(
    orchestrator: Orchestrator, give: Callable[[Any], Any], names: str
) -> None:
    with pytest.raises(TypeError, match="got an unexpected keyword argument") as error:
        give(orchestrator)
    assert names in str(error.value)
