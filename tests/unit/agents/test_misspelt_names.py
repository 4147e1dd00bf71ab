"""What is misspelt is named, with what is nearest: at once in code, as a warning in settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Optional, Union

import pytest

from orchestrator import (
    Agent,
    Breaker,
    Concurrency,
    Context,
    Exponential,
    Fire,
    Mailbox,
    Message,
    Orchestrator,
    Retry,
    every,
    handles,
    replies,
    votes,
)
from orchestrator.agents.hooks import Hook
from orchestrator.agents.unknown_names import unknown_names
from orchestrator.core.errors import InvalidDeclaration, InvalidSettings, UnknownAgent
from orchestrator.core.settings import load_settings
from orchestrator.core.spelling.nearest import nearest
from orchestrator.worker.served_tasks import served_tasks
from orchestrator.worker.startup_warnings import startup_warnings
from tests.apps.shop import make


class Charge(Message):
    cents: int = 1


class Refund(Message):
    cents: int = 1


def hosted(**attributes: Any) -> Orchestrator:
    made = make("redis://127.0.0.1:1/0", hosts=False)
    charge: Callable[..., Any] = handles(Charge)(lambda self, message: None)
    made.host(type("Billing", (Agent,), {"name": "billing", "charge": charge, **attributes}))
    return made


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("retries", 7, "retry"),
        ("max_retries", 7, "retry"),
        ("retyr", Retry(), "retry"),
        ("timeout", 5, "timeout_s"),
        ("timeout_ms", 5.0, "timeout_s"),
        ("time_limit", 5, "timeout_s"),
        ("deadline", 5, "deadline_s"),
        ("expires", 5, "expires_s"),
        ("on_eror", "ignore", "on_error"),
        ("whendown", "error", "when_down"),
        ("prioritiy", 3, "priority"),
        ("mailbx", {"limit": 5}, "mailbox"),
        ("braker", {"failures": 5}, "breaker"),
        ("dead_letter_expird", True, "dead_letter_expired"),
        ("dead_letter_expird", 1, "dead_letter_expired"),
        ("deadletter_expired", "yes", "dead_letter_expired"),
        ("prioritiy", "high", "priority"),
        ("timout_s", "5", "timeout_s"),
        ("Retry", 1, "retry"),
        ("RETRY", Retry(), "retry"),
        ("Breaker", Breaker(failures=3), "breaker"),
        ("mailbox_", Mailbox(5), "mailbox"),
        ("Timeout_S", 5, "timeout_s"),
        ("onError", "ignore", "on_error"),
        ("maxRetries", 3, "retry"),
        ("Singleton", True, "singleton"),
        ("Name", "billing", "name"),
    ],
)
def test_an_attribute_that_looks_like_a_setting_is_refused(name: str, value: Any, meant: str) -> None:
    with pytest.raises(InvalidDeclaration, match=rf"Billing\.{name}=.*: no such setting; did you mean '{meant}'\?"):
        hosted(**{name: value})


def test_a_misspelt_name_of_an_agent_without_one_is_named_as_well() -> None:
    with pytest.raises(InvalidDeclaration, match=r"Billing\.name=''; .*Billing\.Name='b'.*did you mean 'name'"):
        hosted(name="", Name="b")


def test_constants_and_classes_of_an_agents_own_are_left_alone() -> None:
    hosted(RATE=3, RETRIES=3, TIMEOUT=5, Meta=type("Meta", (), {}), Mailbox=Mailbox, Other=3)


@pytest.mark.parametrize("name", ["onDown", "On_down"])
def test_a_hook_in_another_style_is_never_called(name: str) -> None:
    with pytest.raises(InvalidDeclaration, match=rf"{name}: never called; did you mean 'on_down'\?"):
        hosted(**{name: lambda self, down: None})


def test_a_misspelt_setting_of_a_base_class_is_refused_too() -> None:
    class Base(Agent):
        retries = 7

    class Billing(Base):
        name = "billing"

        @handles(Charge)
        def charge(self, message: Charge) -> None: ...

    with pytest.raises(InvalidDeclaration, match="retries"):
        make("redis://127.0.0.1:1/0", hosts=False).host(Billing)


def test_a_misspelt_on_down_is_refused() -> None:
    with pytest.raises(InvalidDeclaration, match=r"on_dwon: never called; did you mean 'on_down'\?"):
        hosted(on_dwon=lambda self, down: None)


def test_a_misspelt_on_cancelled_is_refused() -> None:
    with pytest.raises(InvalidDeclaration, match=r"on_canceled: never called; did you mean 'on_cancelled'\?"):
        hosted(on_canceled=lambda self, cancelled: None)


@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_no_method_that_is_called_by_its_name_may_be_misspelt(hook: Hook) -> None:
    for name in (hook[:-2] + hook[-1], hook[:-2] + hook[-1] + hook[-2]):
        with pytest.raises(InvalidDeclaration, match=rf"{name}: never called; did you mean '{hook}'\?"):
            hosted(singleton=True, **{name: lambda self, called_with: None})


@pytest.mark.parametrize("name", ["on_rejected", "on_detected", "on_downloaded"])
def test_other_methods_of_a_singleton_are_its_own(name: str) -> None:
    hosted(singleton=True, **{name: lambda self, called_with: None})


def test_an_agent_that_is_no_singleton_may_have_methods_that_are_like_a_singletons() -> None:
    hosted(on_selected=lambda self, called_with: None)


def test_an_on_cancelled_that_takes_something_else_is_refused() -> None:
    def takes_charge(self: Any, cancelled: Charge) -> None: ...

    def takes_nothing(self: Any) -> None: ...

    with pytest.raises(InvalidDeclaration, match="with a CancelledStep, but takes Charge; allowed: CancelledStep"):
        hosted(on_cancelled=takes_charge)
    with pytest.raises(InvalidDeclaration, match="takes_nothing takes 0 arguments; allowed: message, or message and"):
        hosted(on_cancelled=takes_nothing)


def test_attributes_of_ones_own_are_nobodys_business() -> None:
    hosted(
        currency="EUR", _retries=7, RETRIES=7, names=("a", "b"), rates={"a": 1}, limit=5, bank=object(),
        timeouts_of=lambda self: 5, retryable=ValueError, Receipt=type("Receipt", (), {}),
    )  # fmt: skip


def agent(charge: Callable[..., Any]) -> type[Agent]:
    return type("Billing", (Agent,), {"name": "billing", "charge": handles(Charge)(charge)})


def takes_another(self: Any, message: Refund) -> None: ...
def takes_it_swapped(self: Any, context: Context, message: Charge) -> None: ...
def takes_a_dict(self: Any, message: dict[str, Any]) -> None: ...
def takes_text(self: Any, message: str) -> None: ...


@pytest.mark.parametrize(
    ("handler", "taken"),
    [(takes_another, "Refund"), (takes_it_swapped, "Context"), (takes_text, "str")],
)
def test_a_handler_that_takes_another_message_is_refused(handler: Callable[..., Any], taken: str) -> None:
    with pytest.raises(InvalidDeclaration, match=f"handles Charge, but takes {taken}; allowed: Charge"):
        make("redis://127.0.0.1:1/0", hosts=False).host(agent(handler))


def test_a_handler_that_takes_another_message_of_a_function_is_refused() -> None:
    class Local(Message): ...

    class Other(Message): ...

    class Billing(Agent):
        name = "billing"

        @handles(Local)
        def one(self, message: Other) -> None: ...

        @handles(Other)
        def other(self, message: Other) -> None: ...

    with pytest.raises(InvalidDeclaration, match="handles Local, but takes Other"):
        make("redis://127.0.0.1:1/0", hosts=False).host(Billing)


def takes_it(self: Any, message: Charge) -> None: ...
def takes_any(self: Any, message: Any) -> None: ...
def takes_messages(self: Any, message: Message, context: Context) -> None: ...
def takes_either(self: Any, message: Charge | Refund) -> None: ...
def takes_one_or_other(self: Any, message: Union[Charge, Refund]) -> None: ...  # noqa: UP007
def takes_it_or_none(self: Any, message: Optional[Charge]) -> None: ...  # noqa: UP045
def says_nothing(self, message): ...
def takes_unknown(self: Any, message: NotHere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


VAGUE = [
    takes_it, takes_any, takes_messages, takes_either, takes_one_or_other, takes_it_or_none, says_nothing,
    takes_unknown,
]  # fmt: skip


@pytest.mark.parametrize("handler", VAGUE)
def test_a_handler_may_say_less_than_its_message(handler: Callable[..., Any]) -> None:
    make("redis://127.0.0.1:1/0", hosts=False).host(agent(handler))


AGENTS = {"billing": ["Charge", "Refund"], "shipping": ["Ship"]}


@pytest.mark.parametrize(
    ("table", "name", "kind", "meant"),
    [
        ("mailboxes", "shiping", "agent", "shipping"),
        ("mailboxes", "billing.Charge", "agent", "billing"),
        ("breakers", "biling", "agent", "billing"),
        ("timeouts", "billing.Chrage", "agent, message or task", "billing.Charge"),
        ("deadlines", "shop.ad", "agent, message or task", "shop.add"),
        ("timeouts", "warehouse-*", "agent, message or task", ""),
    ],
)
def test_a_name_in_the_settings_that_nobody_has_is_warned_of(table: str, name: str, kind: str, meant: str) -> None:
    values: dict[str, Any] = {"mailboxes": {"limit": 5}, "breakers": {}}
    settings: dict[str, Any] = {table: {name: values.get(table, 5)}}
    (said,) = unknown_names(load_settings(**settings), AGENTS, ["shop.add"])
    nearest = f"; did you mean {meant!r}?" if meant else ""
    assert said == f"{table}[{name!r}]: no {kind} that is known here has this name{nearest}"


def test_names_that_somebody_has_are_not_warned_of() -> None:
    settings = load_settings(
        timeouts={"billing": 5, "billing.*": 5, "*.Charge": 5, "shop.add": 5, "*": 9},
        mailboxes={"ship*": {"limit": 5}, "billing": {"limit": 3}},
    )
    assert unknown_names(settings, AGENTS, ["shop.add"]) == []


def test_unknown_options_and_settings_name_what_is_nearest() -> None:
    with pytest.raises(InvalidSettings, match=r"mailboxes\.billing: no such option 'limt'; did you mean 'limit'\?"):
        load_settings(mailboxes={"billing": {"limt": 5}})
    with pytest.raises(InvalidSettings, match=r"lease: no such setting; allowed: .*; did you mean 'lease_s'\?"):
        load_settings(lease=5)
    with pytest.raises(UnknownAgent, match=r"unknown agent 'biling'; known agents: billing; did you mean 'billing'\?"):
        raise UnknownAgent("biling", ["billing"])


def test_what_is_unlike_everything_has_no_nearest() -> None:
    assert nearest("zzz", ("billing",)) == ""
    assert nearest("BILLING", ("billing",)) == "billing"


class Slow(Agent):
    name = "slow"
    retry = Retry(max_retries=5, backoff=Exponential(initial_s=60))
    deadline_s: ClassVar[float | None] = 5

    @handles(Charge)
    def charge(self, message: Charge) -> None: ...


def _early() -> None: ...


def test_a_worker_is_warned_of_what_it_serves_alone() -> None:
    made = make("redis://127.0.0.1:1/0")
    made.host(Slow)
    app = made.app
    app.task(name="shop.early", shared=False, acks_late=False)(_early)
    app.task(name="shop.routed", shared=False, acks_late=False, queue="other")(_early)
    addresses = [made.runtime.directory.address("slow", "Charge"), made.runtime.directory.address("billing", "Charge")]
    mailboxes = {address.task: address.agent for address in addresses}

    def warned(*queues: str) -> str:
        return "\n".join(startup_warnings(app, addresses, "solo", served_tasks(app, queues, mailboxes)))

    assert [name in warned("billing") for name in ("slow.Charge", "shop.early", "shop.routed")] == [False] * 3
    assert [name in warned("slow") for name in ("slow.Charge", "shop.early", "shop.routed")] == [True, False, False]
    assert [name in warned("celery") for name in ("slow.Charge", "shop.early", "shop.routed")] == [False, True, False]
    assert [name in warned("other") for name in ("slow.Charge", "shop.early", "shop.routed")] == [False, False, True]
    assert "slow.Charge" in "\n".join(startup_warnings(app, addresses, "solo"))


def test_a_periodic_method_that_takes_a_message_is_refused() -> None:
    class Ticking(Agent):
        name = "ticking"

        @every(30)
        def tick(self, message: Charge) -> None: ...

    with pytest.raises(InvalidDeclaration, match="tick runs by a schedule, but takes Charge; allowed: Fire"):
        make("redis://127.0.0.1:1/0", hosts=False).host(Ticking)


def test_a_periodic_method_may_leave_its_annotation_out() -> None:
    class Ticking(Agent):
        name = "ticking"

        @every(30)
        def tick(self, fire, context): ...

        @every(30)
        def tock(self, fire: Fire | None) -> None: ...

    make("redis://127.0.0.1:1/0", hosts=False).host(Ticking)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("queue", "slow", "an agent's name is its queue"),
        ("queues", ["slow"], "an agent's name is its queue"),
        ("rate_limit", "10/m", r"none; concurrency = Concurrency\(n\)"),
        ("acks_late", True, "none; a message is always acknowledged after its handler"),
        ("prefetch", 1, "none; a worker holds as many messages as it has slots"),
        ("max_concurrency", 4, r"concurrency = Concurrency\(n\)"),
        ("autoretry_for", (ValueError,), r"retry = Retry\(on=…"),
    ],
)
def test_a_setting_of_celery_is_refused_with_what_there_is_instead(name: str, value: Any, instead: str) -> None:
    with pytest.raises(InvalidDeclaration, match=rf"Billing\.{name}=.*: no such setting; allowed: {instead}"):
        hosted(**{name: value})
    hosted(**{f"_{name}": value})


def test_an_object_that_is_called_queue_is_no_setting() -> None:
    hosted(queue=object())


def test_a_misspelt_concurrency_is_refused() -> None:
    with pytest.raises(InvalidDeclaration, match=r"did you mean 'concurrency'\?"):
        hosted(concurency=Concurrency(5))


@pytest.mark.parametrize("decorator", [handles, replies, votes], ids=lambda decorator: decorator.__name__)
def test_an_option_that_a_decorator_does_not_have_is_named_with_those_it_has(decorator: Any) -> None:
    with pytest.raises(
        TypeError,
        match=rf"{decorator.__name__}\(\) got .* argument 'on_death'; allowed: .*on_error, .*timeout_s",
    ):
        decorator(Charge, on_death="fail")
    with pytest.raises(TypeError, match="did you mean 'retry'"):
        decorator(Charge, retries=3)
