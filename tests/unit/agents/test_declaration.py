"""Agents are checked when they are declared and hosted, not when mail comes."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from orchestrator import Agent, Context, Exponential, Message, Orchestrator, Retry, every, handles
from orchestrator.agents.declaration import inspect_agent
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy, UnknownAgent, UnknownMessage
from orchestrator.core.policies.policy import OnError


class Ping(Message):
    n: int = 0


class Pong(Message):
    pass


class Good(Agent):
    name = "good"
    retry = Retry(max_retries=7)
    on_error = "log"

    @handles(Ping)
    def ping(self, message: Ping) -> int:
        """Answers."""
        return message.n

    @handles(Pong, retry=Retry(max_retries=1))
    def pong(self, message: Pong, context: Context) -> str:
        return context.agent


def declared(**attributes: Any) -> type[Agent]:
    return type("Declared", (Agent,), {"name": "a", "ping": handles(Ping)(lambda self, message: None), **attributes})


@pytest.fixture
def orchestrator() -> Orchestrator:
    app = Celery("declarations", set_as_current=False)
    app.conf.task_always_eager = True
    return Orchestrator(app)


def test_a_declaration_says_what_each_handler_wants() -> None:
    spec = inspect_agent(Good)
    assert (spec.name, spec.queue, spec.policy.on_error) == ("good", "good", OnError.LOG)
    assert spec.policy.retry == Retry(max_retries=7)
    assert {n: (h.method, h.policy.retry, h.takes_context) for n, h in spec.handlers.items()} == {
        "Ping": ("ping", None, False),
        "Pong": ("pong", Retry(max_retries=1), True),
    }


def test_handlers_are_inherited_and_may_be_replaced() -> None:
    class Child(Good):
        name = "child"

        @handles(Ping, retry=Retry(max_retries=2))
        def ping(self, message: Ping) -> int:
            return -message.n

    spec = inspect_agent(Child)
    assert set(spec.handlers) == {"Ping", "Pong"}
    assert spec.handlers["Ping"].policy.retry == Retry(max_retries=2)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"name": ""}, "name=''"),
        ({"name": 5}, "name=5"),
        ({"name": "a b"}, "name='a b'; allowed: letters"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"name": "-a"}, "name='-a'"),
        ({"name": "a\n"}, "name="),
        ({"name": "a" * 101}, "at most 100"),
        ({"retry": 3}, "retry=3 is not allowed; allowed: a Retry"),
        ({"on_error": "explode"}, "on_error='explode' is not allowed; allowed: raise, log, dead_letter, ignore"),
        ({"timeout_s": 0}, "timeout_s=0 is not allowed"),
        ({"priority": 10}, "priority=10 is not allowed"),
        ({"ping": handles(Ping, when_down="wait")(lambda self, message: None)}, "Declared.ping: when_down='wait'"),
        ({"ping": None}, "no handler"),
        ({"pang": handles(Ping)(lambda self, message: None)}, "both handle Ping"),
        ({"ping": handles(Ping)(lambda self: None)}, "takes 0 arguments"),
        ({"ping": handles(Ping)(lambda self, a, b, c: None)}, "takes 3 arguments"),
    ],
)
def test_what_cannot_be_hosted_is_refused_with_the_reason(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidDeclaration, match=said):
        inspect_agent(declared(**attributes))


def test_an_async_handler_is_refused() -> None:
    async def ping(self: Agent, message: Ping) -> None: ...

    with pytest.raises(InvalidDeclaration, match="is async"):
        inspect_agent(declared(ping=handles(Ping)(ping)))


def test_a_handler_that_yields_is_refused() -> None:
    def ping(self: Agent, message: Ping) -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidDeclaration, match="yields"):
        inspect_agent(declared(ping=handles(Ping)(ping)))


@pytest.mark.parametrize("cls", [object, Good(), "good", None])
def test_only_agent_classes_are_hosted(cls: Any, orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidDeclaration, match="not a subclass of Agent"):
        orchestrator.host(cls)


@pytest.mark.parametrize("message", [int, "Ping", Ping(), None])
def test_only_message_classes_are_handled(message: Any) -> None:
    with pytest.raises(InvalidDeclaration, match="allowed: a subclass of Message"):
        handles(message)


def test_hosting_twice_is_hosting_once(orchestrator: Orchestrator) -> None:
    orchestrator.host(Good)
    orchestrator.host(Good, Good)
    assert list(orchestrator.agents) == ["good"]


def test_two_agents_of_one_name_are_refused(orchestrator: Orchestrator) -> None:
    orchestrator.host(Good)
    with pytest.raises(InvalidDeclaration, match="two agents are called 'good'"):
        orchestrator.host(declared(name="good"))


def test_each_handler_is_a_celery_task_with_the_handlers_words(orchestrator: Orchestrator) -> None:
    orchestrator.host(Good)
    assert orchestrator.app.tasks["good.Ping"].__doc__ == "Answers."
    assert "good.Pong" in orchestrator.app.tasks


def test_an_agent_is_one_instance_per_process(orchestrator: Orchestrator) -> None:
    made = []

    class Counting(Agent):
        name = "counting"

        def __init__(self) -> None:
            made.append(self)

        @handles(Ping)
        def ping(self, message: Ping) -> None: ...

    orchestrator.host(Counting)
    assert made == []
    for _ in range(3):
        orchestrator.send("counting", Ping())
    assert len(made) == 1


def test_an_agent_may_be_named_by_its_class(orchestrator: Orchestrator) -> None:
    orchestrator.host(Good)
    assert orchestrator.send(Good, Ping(n=3)).agent == "good"


def test_an_unknown_agent_is_an_error_that_names_the_known_ones(orchestrator: Orchestrator) -> None:
    orchestrator.host(Good)
    with pytest.raises(UnknownAgent, match="unknown agent 'god'; known agents: good"):
        orchestrator.send("god", Ping())


def test_an_unknown_message_is_an_error_that_names_the_known_ones(orchestrator: Orchestrator) -> None:
    orchestrator.host(declared())
    with pytest.raises(UnknownMessage, match="agent 'a' does not handle 'Pong'; it handles: Ping"):
        orchestrator.send("a", Pong())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_error": "explode"}, "on_error='explode' is not allowed; allowed: raise, log, dead_letter, ignore"),
        ({"countdown_s": -1}, "countdown_s=-1"),
        ({"countdown_s": "soon"}, "countdown_s='soon'"),
        ({"countdown_s": float("nan")}, "countdown_s=nan"),
        ({"expires_s": True}, "expires_s=True"),
        ({"expires_s": 1e12}, "allowed: seconds above 0, up to a year"),
        ({"priority": 10}, r"priority=10 is not allowed; allowed: 0 \(first\) to 9 \(last\)"),
        ({"priority": "high"}, "priority='high'"),
        ({"retry": 3}, "retry=3"),
        ({"metadata": 5}, "metadata=5"),
        ({"metadata": {"x": object()}}, "metadata="),
        ({"metadata": {"x": float("nan")}}, "metadata="),
    ],
)
def test_a_send_option_that_makes_no_sense_is_refused_by_name(
    orchestrator: Orchestrator, options: dict[str, Any], said: str
) -> None:
    orchestrator.host(Good)
    with pytest.raises(InvalidPolicy, match=said):
        orchestrator.send("good", Ping(), **options)
    assert orchestrator.ledger() == []


@pytest.mark.parametrize("message", [None, "Ping", {"n": 1}, Ping])
def test_only_messages_are_sent_to_agents(orchestrator: Orchestrator, message: Any) -> None:
    orchestrator.host(Good)
    with pytest.raises(InvalidPolicy, match="allowed: an instance of a Message class"):
        orchestrator.send("good", message)


@pytest.mark.parametrize("recipient", [None, 5, object()])
def test_only_names_agents_and_signatures_are_recipients(orchestrator: Orchestrator, recipient: Any) -> None:
    with pytest.raises(InvalidPolicy, match="recipient="):
        orchestrator.send(recipient, Ping())


def test_pauses_of_an_agent_are_those_it_declares(orchestrator: Orchestrator) -> None:
    assert inspect_agent(declared(retry=Retry(backoff=Exponential(initial_s=9)))).policy.retry == Retry(
        backoff=Exponential(initial_s=9)
    )


def test_a_method_has_one_mark() -> None:
    """Regression: of two @handles on one method, the first was lost without a word."""

    class Twice(Agent):
        name = "twice"

        @handles(Ping)
        @every(5)
        def ping(self, message: Ping) -> None: ...

    class Both(Agent):
        name = "both"

        @handles(Ping)
        @handles(Pong)
        def ping(self, message: Ping | Pong) -> None: ...

    with pytest.raises(InvalidDeclaration, match=r"Twice.ping is marked with @every and @handles\(Ping\);"):
        inspect_agent(Twice)
    with pytest.raises(InvalidDeclaration, match=r"with @handles\(Pong\) and @handles\(Ping\); allowed: one"):
        inspect_agent(Both)
