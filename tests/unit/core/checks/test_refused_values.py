"""Values that were accepted without a word, or whose refusal was no readable text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from orchestrator import Agent, InvalidSettings, Message, Orchestrator, handles, load_settings
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy, OrchestratorError
from tests.apps.shop import make


class Charge(Message):
    cents: int = 1


class Billing(Agent):
    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> None: ...


@pytest.fixture
def shop() -> Orchestrator:
    orchestrator = make("redis://127.0.0.1:1/0", hosts=False)
    orchestrator.app.conf.task_always_eager = True
    orchestrator.host(Billing)
    return orchestrator


def named(name: str) -> type[Agent]:
    return type("Named", (Agent,), {"name": name, "charge": handles(Charge)(lambda self, message: None)})


def test_no_agent_has_the_mailbox_of_the_monitor_manager(shop: Orchestrator) -> None:
    with pytest.raises(InvalidDeclaration, match=r"name='monitor-manager'.*the mailbox of the monitor manager"):
        shop.host(named("monitor-manager"))


@pytest.mark.parametrize("track", ["no", "False", 0, 1])
def test_track_is_true_or_false(shop: Orchestrator, track: Any) -> None:
    """Regression: ``"no"`` was true."""
    for send in (
        lambda: shop.send("billing", Charge(), track=track),
        lambda: shop.send_many("billing", [Charge()], track=track),
    ):
        with pytest.raises(InvalidPolicy, match=f"track={track!r} is not allowed; allowed: True or False"):
            send()


def test_track_may_be_left_out_by_none(shop: Orchestrator) -> None:
    none: Any = None
    assert shop.send("billing", Charge(), track=none).wait(timeout_s=1)


def test_what_expires_at_once_is_refused(shop: Orchestrator) -> None:
    """Regression: such a message was accepted, and no handler ever saw it."""
    said = "expires_s=0 is not allowed; allowed: seconds above 0"
    with pytest.raises(InvalidPolicy, match=said):
        shop.send("billing", Charge(), expires_s=0)
    with pytest.raises(InvalidPolicy, match=said):
        shop.broadcast(["billing"], Charge(), expires_s=0)
    with pytest.raises(InvalidDeclaration, match=said):
        shop.host(type("Late", (Agent,), {"name": "late", "expires_s": 0, "charge": Billing.charge}))


LONG = "x" * 5000


@pytest.mark.parametrize(
    "use",
    [
        lambda o: o.host(named(LONG)),
        lambda o: o.send(LONG, Charge()),
        lambda o: o.delivery(LONG),
        lambda o: o.dead_letters.get(LONG),
        lambda o: o.dead_letters.replay(LONG),
        lambda o: o.call(LONG, Charge(), timeout_s=1),
        lambda o: o.broadcast([LONG], Charge()),
        lambda o: o.send("billing", type(LONG, (Message,), {})()),
        lambda o: o.host(type("Odd", (Agent,), {"name": "odd", "timeout": LONG, "charge": Billing.charge})),
        lambda o: o.host(type("Odd", (Agent,), {"name": "odd", "mailbox": LONG, "charge": Billing.charge})),
        lambda o: load_settings(eviction=LONG),
        lambda o: load_settings(None, **dict[str, Any]({LONG: 1})),
    ],
)
def test_an_error_shows_the_beginning_of_a_long_value(shop: Orchestrator, use: Callable[[Orchestrator], Any]) -> None:
    with pytest.raises(OrchestratorError) as refused:
        use(shop)
    assert "xxx..." in str(refused.value)
    assert len(str(refused.value)) < 2500


@pytest.mark.parametrize("url", ["redis://h\udc80/0", "redis://:p\udcffw@h/0", "redis://h/0?heartbeat=\udc80"])
def test_a_url_that_is_no_text_is_refused(url: str) -> None:
    """Regression: a UnicodeEncodeError. An environment variable that is not UTF-8 has such characters."""

    def send() -> Any:
        orchestrator = Orchestrator(Celery("shop", broker=url, set_as_current=False))
        orchestrator.host(Billing)
        return orchestrator.send("billing", Charge())

    for use in (send, lambda: load_settings(broker_url=url)):
        with pytest.raises(InvalidSettings) as refused:
            use()
        assert str(refused.value).encode()
        assert "\udcff" not in str(refused.value)


@pytest.mark.parametrize("name", ["key_prefix", "app_version"])
def test_a_setting_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(InvalidSettings, match=name) as refused:
        load_settings(**{name: "a\udc80"})  # type: ignore[arg-type]
    assert str(refused.value).encode()
