"""A supervised send of a task goes by the task's own class, in Redis and in eager mode."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, Task
from celery.canvas import chain
from redis import Redis

from orchestrator import Orchestrator, Status
from orchestrator.core.deliveries.outcome import Handled
from orchestrator.core.errors import DeliveryTimeout, InvalidPolicy, InvalidWorkflow
from orchestrator.core.keys import Keys

KEYS = Keys()
later: list[Callable[[], Any]] = []
ran: list[Any] = []


class OfATenant(Task):
    """Replaces the headers, as a careless base class does, and adds an argument that no caller gives."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        options["headers"] = {"tenant": options.pop("tenant", "acme")}
        return super().apply_async(args, {**(kwargs or {}), "by": "base"}, **options)


class OnCommit(Task):
    def apply_async(self, *args: Any, **options: Any) -> Any:
        later.append(lambda: super(OnCommit, self).apply_async(*args, **options))


class Locked(Task):
    def apply_async(self, *args: Any, **options: Any) -> Any:
        return None


class Renamed(Task):
    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async(args, kwargs, **{**options, "task_id": "of-its-own", "queue": "elsewhere"})


class Failing(Task):
    def apply_async(self, *args: Any, **options: Any) -> Any:
        raise OSError("its own trouble")


def add(task: Any, a: int, b: int = 0, *, by: str = "") -> Any:
    ran.append((task.request.id, (task.request.headers or {}).get("tenant"), by))
    return [a + b, by]


@pytest.fixture(params=["redis", "eager"])
def orchestrator(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Orchestrator]:
    later.clear()
    ran.clear()
    app = Celery("own-ways", broker=redis_url, set_as_current=False)
    app.conf.task_always_eager = request.param == "eager"
    orchestrator = Orchestrator(app)
    for name, base in TASKS.items():
        app.task(add, bind=True, base=base, shared=False, name=name, ignore_result=True)
    yield orchestrator
    app.close()


TASKS = {
    "plain": Task,
    "tenant": OfATenant,
    "on_commit": OnCommit,
    "locked": Locked,
    "renamed": Renamed,
    "failing": Failing,
}


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as client:
        yield client


def messages(redis: Any, queue: str = "celery") -> list[Any]:
    return [json.loads(fields[b"m"]) for _, fields in redis.xrange(KEYS.stream(queue, "0"))]


def test_a_base_class_adds_its_headers_and_arguments(orchestrator: Orchestrator, redis: Any) -> None:
    """Regression: the base class was passed by, and the task ran in the wrong tenant."""
    delivery = orchestrator.send(orchestrator.app.signature("tenant", (1, 2)))
    if orchestrator.eager:
        assert ran == [(delivery.id, "acme", "base")]
        assert delivery.wait(timeout_s=1) == Handled([3, "base"], 1)
    else:
        (message,) = messages(redis)
        assert message["headers"]["tenant"] == "acme"
        assert message["headers"]["orc"]["track"]
        assert "base" in message["headers"]["kwargsrepr"]
        assert delivery.status() is Status.PENDING


def test_an_option_that_only_the_class_knows_reaches_it(orchestrator: Orchestrator, redis: Any) -> None:
    orchestrator.send(orchestrator.app.signature("tenant", (1,)).set(tenant="other"))
    seen = [ran[0][1]] if orchestrator.eager else [message["headers"]["tenant"] for message in messages(redis)]
    assert seen == ["other"]
    with pytest.raises(InvalidPolicy, match="tenant"):
        orchestrator.send(orchestrator.app.signature("plain", (1,)).set(tenant="other"))


def test_the_head_of_a_chain_and_a_call_go_by_the_class_too(orchestrator: Orchestrator, redis: Any) -> None:
    signature = orchestrator.app.signature
    run = orchestrator.send(chain(signature("tenant", (1,)), signature("plain", (1,), immutable=True)))
    if orchestrator.eager:
        assert ran[0][1:] == ("acme", "base")
        assert run.result() == [1, ""]
        assert orchestrator.call(signature("tenant", (1, 2)), timeout_s=5) == [3, "base"]
    else:
        (message,) = messages(redis)
        assert message["headers"]["tenant"] == "acme"
        assert json.loads(base64.b64decode(message["body"]))[:2] == [[1], {"by": "base"}]


def test_what_its_class_puts_off_is_pending_once_it_is_published(orchestrator: Orchestrator, redis: Any) -> None:
    delivery = orchestrator.send(orchestrator.app.signature("on_commit", (1, 2)), idempotency_key="k")
    assert not delivery.published
    assert delivery.status() is Status.NOT_PUBLISHED
    with pytest.raises(DeliveryTimeout):
        delivery.wait(timeout_s=0.01)
    assert (messages(redis), ran) == ([], [])
    (publish,) = later
    publish()
    if orchestrator.eager:
        # Celery's own eager mode runs it, without the Orchestrator.
        assert len(ran) == 1
    else:
        assert delivery.status() is Status.PENDING
        assert [message["headers"]["id"] for message in messages(redis)] == [delivery.id]
        orchestrator.send(orchestrator.app.signature("on_commit", (1, 2)), idempotency_key="k")
        # Nobody waits for the first one's delivery here; it is not sent twice, and it is no error.
        later[1]()
        assert len(messages(redis)) == 1


def test_what_its_class_does_not_publish_is_said_to_be_so(orchestrator: Orchestrator, redis: Any) -> None:
    delivery = orchestrator.send(orchestrator.app.signature("locked", (1,)))
    assert (delivery.published, delivery.status()) == (False, Status.NOT_PUBLISHED)
    assert (messages(redis), ran) == ([], [])


def test_a_delivery_has_the_id_and_the_mailbox_that_its_class_chose(orchestrator: Orchestrator, redis: Any) -> None:
    delivery = orchestrator.send(orchestrator.app.signature("renamed", (1,)))
    assert (delivery.id, delivery.queue) == ("of-its-own", "elsewhere")
    assert delivery.status() is (Status.HANDLED if orchestrator.eager else Status.PENDING)


def test_an_error_of_its_class_is_raised_as_it_is(orchestrator: Orchestrator) -> None:
    with pytest.raises(OSError, match="its own trouble"):
        orchestrator.send(orchestrator.app.signature("failing", (1,)))


def test_arguments_that_do_not_fit_are_the_error_that_delay_raises(orchestrator: Orchestrator, redis: Any) -> None:
    """Regression: `send(add.s())` was accepted, and retried."""
    app = orchestrator.app
    plain = app.tasks["plain"]
    with pytest.raises(TypeError) as by_delay:
        plain.delay()
    sends: list[Callable[[], Any]] = [
        lambda: orchestrator.send(plain.s()),
        lambda: orchestrator.send(plain),
        lambda: orchestrator.call(plain.s(), timeout_s=5, fallback=True) if orchestrator.eager else plain.delay(),
        lambda: orchestrator.send(plain.s(), countdown_s=60),
    ]
    for send in sends:
        with pytest.raises(TypeError) as error:
            send()
        assert str(error.value) == str(by_delay.value)
    with pytest.raises(InvalidWorkflow, match=re.escape(str(by_delay.value))):
        orchestrator.send(chain(plain.s(), plain.s()))
    with pytest.raises(TypeError, match="colour"):
        orchestrator.send(plain.s(1, colour="red"))
    assert (messages(redis), ran) == ([], [])


def test_a_task_that_checks_nothing_is_not_checked(orchestrator: Orchestrator) -> None:
    orchestrator.app.tasks["plain"].typing = False
    orchestrator.send(orchestrator.app.tasks["plain"].s(), on_error="ignore")


def test_a_signatures_headers_and_other_options_are_taken(orchestrator: Orchestrator, redis: Any) -> None:
    """Regression: headers were refused."""
    signature = orchestrator.app.signature("plain", (1,)).set(headers={"tenant": "acme"}, shadow="shown")
    orchestrator.send(signature)
    if orchestrator.eager:
        assert ran[0][1] == "acme"
    else:
        (message,) = messages(redis)
        assert (message["headers"]["tenant"], message["headers"]["shadow"]) == ("acme", "shown")
        assert message["headers"]["orc"]["track"]
    with pytest.raises(InvalidPolicy, match="headers"):
        orchestrator.send(signature.clone().set(headers=["no"]))
    with pytest.raises(InvalidPolicy, match="serializer"):
        orchestrator.send(signature.clone().set(serializer="pickle"))


def test_a_signatures_times_are_celerys(orchestrator: Orchestrator, redis: Any) -> None:
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    signature = orchestrator.app.signature("plain", (1,)).set(eta=in_an_hour, expires=in_an_hour + timedelta(hours=1))
    delivery = orchestrator.send(signature)
    if orchestrator.eager:
        pytest.skip("eager mode waits for no countdown")
    assert delivery.status() is Status.SCHEDULED
    (raw,) = redis.hvals(KEYS.delayed_bodies("celery"))
    assert json.loads(raw)["headers"]["expires"][:16] == (in_an_hour + timedelta(hours=1)).isoformat()[:16]


def test_an_exchange_of_a_signature_is_where_it_is_looked_for(orchestrator: Orchestrator) -> None:
    delivery = orchestrator.send(orchestrator.app.signature("plain", (1,)).set(queue="reports", priority=3))
    assert delivery.queue == "reports"
    assert delivery.status() is (Status.HANDLED if orchestrator.eager else Status.PENDING)
