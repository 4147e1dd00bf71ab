"""What an Orchestrator makes of a Celery app's configuration, whenever and however it was configured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.solo import TaskPool as SoloPool

from orchestrator import InvalidSettings, Orchestrator
from orchestrator.core.settings import load_settings
from orchestrator.transport.transport import TRANSPORT
from orchestrator.worker.bootsteps.start import refuse_start
from orchestrator.worker.startup_warnings import startup_warnings
from tests.support.billing_agent import Billing, Charge, nothing, orchestrated
from tests.support.workers_for_steps import Worker

AWAY = "redis://127.0.0.1:1/0"
SHOP = {"task": "shop.tidy", "schedule": 60.0}

#: What a user says, by Celery's names of today.
SAID: dict[str, Any] = {
    "broker_url": AWAY,
    "broker_transport_options": {"global_keyprefix": "shop:", "max_deaths": 7},
    "beat_schedule": {"tidy": SHOP},
    "task_default_queue": "shop",
    "result_expires": 60,
}

#: The same by the names of before Celery 4.
SAID_IN_CAPITALS: dict[str, Any] = {
    "BROKER_URL": AWAY,
    "BROKER_TRANSPORT_OPTIONS": SAID["broker_transport_options"],
    "CELERYBEAT_SCHEDULE": SAID["beat_schedule"],
    "CELERY_DEFAULT_QUEUE": "shop",
    "CELERY_TASK_RESULT_EXPIRES": 60,
    "CELERY_DISABLE_RATE_LIMITS": True,
}


def claim_single(app: Celery) -> None:
    for name, value in SAID.items():
        setattr(app.conf, name, value)


def all_at_once(app: Celery) -> None:
    app.conf.update(SAID)


def from_a_dict(app: Celery) -> None:
    app.config_from_object(SAID)


def from_a_dict_at_once(app: Celery) -> None:
    app.config_from_object(SAID, force=True)


def from_a_module(app: Celery) -> None:
    app.config_from_object("settings_of_the_shop")


def from_a_variable(app: Celery) -> None:
    app.config_from_envvar("SHOP_SETTINGS")


def as_django_does(app: Celery) -> None:
    app.config_from_object("django_settings_of_the_shop", namespace="CELERY")


def in_capitals(app: Celery) -> None:
    app.config_from_object(SAID_IN_CAPITALS)


def as_defaults(app: Celery) -> None:
    app.add_defaults(lambda: SAID)


WAYS = [
    claim_single, all_at_once, from_a_dict, from_a_dict_at_once, from_a_module, from_a_variable, as_django_does,
    in_capitals, as_defaults,
]  # fmt: skip


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with the settings, as users have them."""
    plain, django = ModuleType("settings_of_the_shop"), ModuleType("django_settings_of_the_shop")
    vars(plain).update(SAID)
    vars(django).update({f"CELERY_{name.upper()}": value for name, value in SAID.items()}, DEBUG=True, TIME_ZONE="UTC")
    for module in (plain, django):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("SHOP_SETTINGS", plain.__name__)


def new_app() -> Celery:
    return Celery("shop", set_as_current=False)


def before(app: Celery, configure: Callable[[Celery], None]) -> Orchestrator:
    configure(app)
    return orchestrated(app, load_settings(lease_s=20, max_deaths=5))


def after(app: Celery, configure: Callable[[Celery], None]) -> Orchestrator:
    orchestrator = orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    configure(app)
    return orchestrator


def after_use(app: Celery, configure: Callable[[Celery], None]) -> Orchestrator:
    orchestrator = orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    assert app.conf.broker_transport == TRANSPORT
    configure(app)
    return orchestrator


def before_and_read(app: Celery, configure: Callable[[Celery], None]) -> Orchestrator:
    configure(app)
    assert app.conf.result_expires == 60
    return orchestrated(app, load_settings(lease_s=20, max_deaths=5))


@pytest.mark.parametrize("when", [before, before_and_read, after, after_use])
@pytest.mark.parametrize("configure", WAYS)
def test_the_users_settings_and_ours_hold_together_whenever_and_however_they_are_said(
    configure: Callable[[Celery], None], when: Callable[[Celery, Callable[[Celery], None]], Orchestrator]
) -> None:
    app = new_app()
    orchestrator = when(app, configure)
    conf = app.conf
    assert (conf.broker_url, conf.broker_transport, orchestrator.runtime.is_supervised) == (AWAY, TRANSPORT, True)
    options = conf.broker_transport_options
    assert (options["global_keyprefix"], options["max_deaths"], options["lease_s"]) == ("shop:", 7, 20)
    assert conf.beat_schedule["tidy"] == SHOP
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)
    assert conf.broker_connection_retry_on_startup is True
    assert conf.broker_connection_max_retries is None
    assert (conf.result_expires, conf.accept_content) == (60, ["json"])
    assert {"shop", "billing"} <= set(app.amqp.queues.consume_from)
    task = app.task(name="shop.tidy", shared=False)(nothing)
    assert app.amqp.router.route({}, task.name)["queue"].name == "shop"
    assert task.acks_late
    assert not startup_warnings(app, [])


class Lazy(dict):
    """A configuration that must not be looked into yet."""

    def __getitem__(self, key: str) -> Any:
        raise AssertionError("evaluated")

    keys = items = values = __iter__ = __contains__ = get = __getitem__  # type: ignore[assignment]


def test_nothing_is_evaluated_by_making_an_orchestrator_and_hosting_agents() -> None:
    app = new_app()
    app.config_from_object(Lazy(broker_url=AWAY))
    app.add_defaults(lambda: pytest.fail("evaluated"))
    app.on_configure.connect(lambda **_: pytest.fail("evaluated"), weak=False)
    orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    app.task(name="shop.tidy", shared=False)(nothing)
    assert (app.configured, app.finalized) == (False, False)


def test_an_app_without_a_broker_gets_the_settings_one() -> None:
    app = new_app()
    Orchestrator(app, load_settings(broker_url=AWAY))
    assert (app.conf.broker_url, app.conf.broker_transport) == (AWAY, TRANSPORT)


def test_options_may_be_changed_in_place() -> None:
    app = new_app()
    orchestrator = orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    app.conf.broker_transport_options["socket_timeout"] = 3
    orchestrator.runtime.configuration.node_name = "w1@host"
    options = app.conf.broker_transport_options
    assert (options["socket_timeout"], options["node_name"], options["lease_s"]) == (3, "w1@host", 20)
    app.conf.broker_transport_options = {"socket_timeout": 4}
    assert app.conf.broker_transport_options["socket_timeout"] == 4


def test_a_queue_named_afterwards_is_the_one_that_is_read_and_sent_to() -> None:
    """Regression: the queues were made at once, so the worker read `celery` and the senders wrote to `shop`."""
    app = new_app()
    orchestrator = orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    task = app.task(name="shop.tidy", shared=False)(nothing)
    app.conf.task_default_queue = "shop"
    assert "shop" in app.amqp.queues.consume_from
    assert "celery" not in app.amqp.queues.consume_from
    assert app.amqp.router.route({}, task.name)["queue"].name == "shop"
    assert orchestrator.runtime.is_supervised


def test_an_agent_that_is_hosted_when_queues_exist_gets_its_mailbox() -> None:
    app = new_app()
    orchestrator = Orchestrator(app)
    app.amqp.queues.select(["other"])
    orchestrator.host(Billing)
    assert set(app.amqp.queues.consume_from) >= {"other", "billing"}


def test_two_apps_of_one_process_have_settings_of_their_own() -> None:
    shared = {"global_keyprefix": "shared:"}
    apps = [new_app(), new_app()]
    for max_deaths, app in enumerate(apps, start=2):
        Orchestrator(app, load_settings(max_deaths=max_deaths))
        app.conf.broker_transport_options = shared
    assert [app.conf.broker_transport_options["max_deaths"] for app in apps] == [2, 3]
    described = [app.conf.broker_transport_options["describe"] for app in apps]
    assert described[0] is not described[1]
    assert shared == {"global_keyprefix": "shared:"}
    plain = new_app()
    assert (plain.conf.broker_transport, plain.conf.task_acks_late) == (None, False)


# -- an explicit word wins


@pytest.mark.parametrize("name", ["task_acks_late", "CELERY_ACKS_LATE"])
@pytest.mark.parametrize("when", [before, after])
def test_early_acknowledgement_that_the_user_asks_for_is_kept_and_said(
    name: str, when: Callable[[Celery, Callable[[Celery], None]], Orchestrator]
) -> None:
    app = Celery("shop", broker=AWAY, set_as_current=False)
    when(app, lambda app: app.config_from_object({name: False}))
    early = app.task(name="shop.early", shared=False)(nothing)
    late = app.task(name="shop.late", shared=False, acks_late=True)(nothing)
    app.finalize()
    assert (early.acks_late, late.acks_late) == (False, True)
    # It is a word about the app's own tasks.
    assert app.tasks["billing.Charge"].acks_late
    assert [line for line in startup_warnings(app, []) if "not supervised" in line] == [
        "shop.early: not supervised, acks_late=False: acknowledged before it runs, so it is lost with its worker"
    ]


def test_other_explicit_words_win_too() -> None:
    app = new_app()
    Orchestrator(app)
    app.conf.task_reject_on_worker_lost = False
    app.conf.broker_connection_retry_on_startup = False
    app.conf.broker_connection_max_retries = 5
    assert not app.conf.task_reject_on_worker_lost
    assert not app.conf.broker_connection_retry_on_startup
    assert app.conf.broker_connection_max_retries == 5


# -- what cannot be merged


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"accept_content": ["json", "pickle"]}, "accept_content has 'pickle'.*allowed: 'json'"),
        (
            {"accept_content": ["application/x-python-serialize", "json"]},
            "has 'application/x-python-ser",
        ),
        ({"CELERY_ACCEPT_CONTENT": ["json", "pickle"]}, "accept_content has 'pickle'"),
        ({"result_accept_content": ["pickle"]}, "result_accept_content has 'pickle'"),
        ({"task_serializer": "pickle"}, "task_serializer='pickle'"),
        ({"result_serializer": "pickle"}, "result_serializer='pickle'"),
        (
            {"accept_content": ["yaml"]},
            r"accept_content=\['yaml'\]: supervised messages are JSON; allowed: with",
        ),
    ],
)
def test_contents_that_contradict_the_promises_are_refused_by_name(conf: dict[str, Any], said: str) -> None:
    app = Celery("shop", broker=AWAY, set_as_current=False)
    orchestrator = orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    app.config_from_object(conf)
    assert "pickle" not in app.conf.accept_content
    with pytest.raises(InvalidSettings, match=said):
        refuse_start(orchestrator.runtime, Worker(app, SoloPool))
    with pytest.raises(InvalidSettings, match=said):
        orchestrator.send(Billing, Charge(cents=1))


def test_other_contents_are_the_users_business() -> None:
    app = Celery("shop", broker=AWAY, set_as_current=False)
    orchestrator = orchestrated(app, load_settings(lease_s=20, max_deaths=5))
    app.conf.accept_content = ["json", "msgpack"]
    refuse_start(orchestrator.runtime, Worker(app, SoloPool))
    assert app.conf.accept_content == ["json", "msgpack"]


def test_an_app_has_one_orchestrator() -> None:
    app = Celery("twice", broker=AWAY, set_as_current=False)
    first = Orchestrator(app)
    with pytest.raises(InvalidSettings, match="the app has one already"):
        Orchestrator(app)
    assert app.orchestrator is first
