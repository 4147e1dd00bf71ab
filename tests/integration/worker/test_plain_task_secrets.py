"""A plain task's secrets are in its message's body alone: not in its headers, its events or `inspect`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.amqp import AMQP
from redis import Redis

from orchestrator import Orchestrator

SECRET = "hunter2"


def make(url: str, **options: Any) -> Celery:
    app = Celery("logins", broker=url, set_as_current=False, **options)
    app.conf.task_send_sent_event = True
    Orchestrator(app)

    @app.task(name="logins.login", shared=False)
    def login(user: str, password: str = "", form: Any = None) -> None: ...

    return app


class Recorder:
    """Records the events that senders publish, as Flower reads them."""

    def __init__(self, app: Celery) -> None:
        self.sent: list[dict[str, Any]] = []
        vars(app.amqp)["_event_dispatcher"] = self

    def publish(self, kind: str, fields: dict[str, Any], *_: Any, **__: Any) -> None:
        self.sent.append({"type": kind, **fields})


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "a keyword": (("ann",), {"password": SECRET}),
    "a position": (("ann", SECRET), {}),
    "a field of an object": (("ann",), {"form": {"deep": [{"Token": SECRET}]}}),
    "a field of a positional object": (("ann", "", {"api_key": SECRET}), {}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("protocol", [1, 2])
def test_what_is_sent_shows_no_secret(redis_url: str, call: str, protocol: int) -> None:
    args, kwargs = CALLS[call]
    app = make(redis_url)
    app.conf.task_protocol = protocol
    recorder = Recorder(app)
    app.tasks["logins.login"].apply_async(args, kwargs)
    app.send_task("logins.login", args, kwargs)
    assert len(recorder.sent) == 2
    assert SECRET not in json.dumps(recorder.sent, default=str)
    assert "ann" in json.dumps(recorder.sent, default=str)
    with Redis.from_url(redis_url) as client:
        stored: Any = client.xrange("orc:q:0:celery")
    assert len(stored) == 2
    for _, fields in stored:
        assert SECRET.encode() not in b"".join(fields.values()) or protocol == 1
    app.close()


def test_arguments_without_secrets_are_shown_as_celery_shows_them(redis_url: str) -> None:
    app = make(redis_url)
    stock = Celery("stock", set_as_current=False)
    args, kwargs = ("ann", (1, 2), [3.5, None]), {"form": {"a": ("b",)}}
    ours = app.amqp.as_task_v2("id", "logins.other", args, kwargs).headers
    theirs = stock.amqp.as_task_v2("id", "logins.other", args, kwargs).headers
    assert (ours["argsrepr"], ours["kwargsrepr"]) == (theirs["argsrepr"], theirs["kwargsrepr"])
    app.close()


def test_a_text_that_the_caller_passes_stays(redis_url: str) -> None:
    app = make(redis_url)
    headers = app.amqp.as_task_v2("id", "logins.login", ("ann",), {"password": SECRET}, kwargsrepr="{...}").headers
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("('ann',)", "{...}")
    app.close()


class Own(AMQP):
    """An application's own class of message builders."""

    queues_cls = AMQP.queues_cls
    own = True


def test_an_applications_own_message_builder_is_kept(redis_url: str) -> None:
    app = make(redis_url, amqp=Own)
    assert isinstance(app.amqp, Own)
    assert SECRET not in app.amqp.as_task_v2("id", "logins.login", (), {"password": SECRET}).headers["kwargsrepr"]
    app.close()


def test_a_message_builder_made_before_the_orchestrator_masks_too(redis_url: str) -> None:
    app = Celery("early", broker=redis_url, set_as_current=False)
    assert app.amqp.create_task_message
    Orchestrator(app)
    assert SECRET not in app.amqp.create_task_message("id", "x", (), {"password": SECRET}).headers["kwargsrepr"]
    app.close()


def test_a_task_of_a_base_class_has_parameters_too(redis_url: str) -> None:
    app = make(redis_url)

    class Login(Task):
        name = "logins.class"

        def run(self, user: str, password: str) -> None: ...

    app.register_task(Login())
    assert SECRET not in app.amqp.as_task_v2("id", "logins.class", ("ann", SECRET), {}).headers["argsrepr"]
    app.close()
