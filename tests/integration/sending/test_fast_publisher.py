"""A message published the quick way is the message that Celery would have published; and when Celery has to do it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals
from redis import Redis

from orchestrator import Agent, Exponential, Message, Orchestrator, Retry, handles
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.keys import Keys
from orchestrator.sending import fast_publisher
from orchestrator.sending.bulk import CHUNK

KEYS = Keys()


class Text(Message):
    text: str
    password: str = "hunter2"
    more: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it


class Clerk(Agent):
    name = "clerk"

    @handles(Text)
    def read(self, message: Text) -> None:
        """Never run here."""


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    app = Celery("quick", broker=redis_url, set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    app.task(_plain, shared=False, name="plain", ignore_result=True)
    app.task(_plain, shared=False, name="limited", ignore_result=True, time_limit=9, soft_time_limit=8, priority=6)
    yield orchestrator
    app.close()


def _plain(*args: Any, **kwargs: Any) -> None:
    """Never run here."""


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def by_celery(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Tasks that Celery has published."""
    sent: list[str] = []
    original = fast_publisher.FastPublisher.publish

    def publish(self: Any, parcel: Any, *args: Any) -> bool:
        done = original(self, parcel, *args)
        if not done:
            sent.append(parcel.task)
        return done

    monkeypatch.setattr(fast_publisher.FastPublisher, "publish", publish)
    return lambda: sent


def lying(redis: Any, queue: str, level: str = "0") -> list[dict[str, Any]]:
    """The messages in a mailbox, their bodies decoded, without what is each message's own."""
    found = []
    for _, fields in redis.xrange(KEYS.stream(queue, level)):
        message = json.loads(fields[b"m"])
        body = base64.b64decode(message["body"])
        message["body"] = json.loads(zlib.decompress(body) if "compression" in message["headers"] else body)
        tag, id_ = message["properties"].pop("delivery_tag"), message["headers"].pop("id")
        assert tag
        assert id_ == message["properties"].pop("correlation_id") == message["headers"].pop("root_id")
        for name in ("argsrepr", "kwargsrepr"):
            # Celery says them twice: as headers, where all look for them, and as properties.
            message["properties"].pop(name, None)
        found.append(message)
    return found


SENDS: dict[str, Callable[[Orchestrator], Any]] = {
    "agent": lambda o: o.send("clerk", Text(text="hello")),
    "unicode": lambda o: o.send("clerk", Text(text='äöü "quoted" \\ 字\n%s {0}')),
    "deep": lambda o: o.send("clerk", Text(text="x", more={"a": {"b": {"c": {"d": [1, 2.5, None, True]}}}})),
    "long": lambda o: o.send("clerk", Text(text="x" * 5000)),
    "options": lambda o: o.send(
        "clerk", Text(text="x"), priority=6, metadata={"job": "7"}, track=False, on_error="log",
        retry=Retry(7, Exponential(1, 3, 9, 0), never=("ValueError",)),
    ),
    "task": lambda o: o.send(o.app.signature("plain", (1, "two"), {"three": [3]})),
    "limits": lambda o: o.send(o.app.signature("limited", (1,))),
    "id": lambda o: o.send(o.app.signature("plain", (), task_id='"my" own')),
}  # fmt: skip


@pytest.mark.parametrize("name", SENDS)
def test_it_is_what_celery_would_have_sent(
    orchestrator: Orchestrator,
    redis: Any,
    by_celery: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    SENDS[name](orchestrator)
    assert by_celery() == []
    monkeypatch.setattr(fast_publisher.FastPublisher, "_is_plain", lambda *_: False)
    SENDS[name](orchestrator)
    assert len(by_celery()) == 1
    queue = "clerk" if name in ("agent", "unicode", "deep", "long", "options") else "celery"
    level = "6" if name in ("options", "limits") else "0"
    ours, theirs = lying(redis, queue, level)
    assert ours == theirs
    assert "hunter2" not in ours["headers"]["argsrepr"]
    accepted = redis.hget(KEYS.ledger(queue), "accepted")
    assert int(accepted or 0) == 2


def test_what_one_send_says_does_not_stick_to_the_next(
    orchestrator: Orchestrator, redis: Any, by_celery: Callable[[], list[str]]
) -> None:
    said: dict[str, Any] = {
        "priority": 9, "metadata": {"job": "7"}, "track": False, "on_error": "log", "timeout_s": 5, "deadline_s": 50,
        "retry": Retry(0), "dead_letter_expired": True,
    }  # fmt: skip
    orchestrator.send("clerk", Text(text="x"), **said)
    orchestrator.send("clerk", Text(text="x"))
    orchestrator.send("clerk", Text(text="x"), priority=3)
    orchestrator.send("clerk", Text(text="x"), expires_s=60, countdown_s=0)
    orchestrator.send("clerk", Text(text="x"))
    assert by_celery() == ["clerk.Text"]
    assert [len(lying(redis, "clerk", level)) for level in ("0", "3", "6", "9")] == [3, 1, 0, 1]
    first, expiring, last = lying(redis, "clerk")
    assert first == last
    assert first["properties"]["priority"] == 0
    assert first["headers"]["orc"] == {
        name: value for name, value in expiring["headers"]["orc"].items() if name != "expires"
    }
    for priority in (4, None):
        app = orchestrator.app
        orchestrator.send(app.signature("limited", (1,), **({} if priority is None else {"priority": priority})))
    assert [m["properties"]["priority"] for level in ("3", "6") for m in lying(redis, "celery", level)] == [4, 6]


@pytest.mark.parametrize("options", [{}, {"priority": 6, "metadata": {"done": "50% of %(id)s"}, "track": False}])
def test_of_many_each_is_what_celery_would_have_sent(
    orchestrator: Orchestrator, redis: Any, options: dict[str, Any]
) -> None:
    texts = ["hello", 'äöü "quoted" \\ 字\n%s {0} %(id)s', "x" * 5000]
    deliveries = orchestrator.send_many("clerk", [Text(text=text) for text in texts], **options)
    ours = lying(redis, "clerk", "6" if options else "0")
    ids = [
        json.loads(fields[b"m"])["headers"]["id"]
        for _, fields in redis.xrange(KEYS.stream("clerk", 6 if options else 0))
    ]
    assert ids == [delivery.id for delivery in deliveries]
    redis.delete(KEYS.stream("clerk", "6" if options else "0"))
    orchestrator.app.conf.task_send_sent_event = True
    for text in texts:
        orchestrator.send("clerk", Text(text=text), **options)
    assert ours == lying(redis, "clerk", "6" if options else "0")


def test_many_chunks_keep_their_order_on_a_server_that_forgot_its_scripts(
    orchestrator: Orchestrator, redis: Any
) -> None:
    orchestrator.send("clerk", Text(text="before"))
    redis.script_flush()
    texts = [str(number) for number in range(3 * CHUNK + 1)]
    orchestrator.send_many("clerk", [Text(text=text) for text in texts])
    assert [m["body"][0][0]["text"] for m in lying(redis, "clerk")] == ["before", *texts]
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == len(texts) + 1


def test_many_on_a_connection_that_broke_say_so_and_the_next_go_through(orchestrator: Orchestrator, redis: Any) -> None:
    orchestrator.send_many("clerk", [Text(text="1")])
    redis.client_kill_filter(_type="normal", skipme=True)
    with contextlib.suppress(BrokerUnavailable):
        orchestrator.send_many("clerk", [Text(text="lost or not")] * (2 * CHUNK))
    orchestrator.send_many("clerk", [Text(text="2")])
    assert lying(redis, "clerk")[-1]["body"][0][0]["text"] == "2"


@pytest.mark.parametrize("settings", [{}, {"task_compression": "gzip"}])
def test_a_copy_is_what_celery_would_have_sent(
    orchestrator: Orchestrator, redis: Any, settings: dict[str, Any]
) -> None:
    redis.zadd(KEYS.leases, {"somebody": 1})
    redis.sadd(KEYS.servers("clerk"), "somebody")
    orchestrator.app.conf.update(settings)
    message = Text(text="50% of %(id)s", password="hunter3")
    report = orchestrator.broadcast(["clerk"], message, metadata={"a": "%s"})
    assert not report.refused
    orchestrator.app.conf.task_send_sent_event = True
    orchestrator.send("clerk", message, metadata={"a": "%s"})
    ours, theirs = lying(redis, "clerk")
    assert ours == theirs


def test_what_is_compressed_is_so_in_many_too(orchestrator: Orchestrator, redis: Any) -> None:
    orchestrator.app.conf.task_compression = "gzip"
    orchestrator.send_many("clerk", [Text(text="one"), Text(text="two")])
    assert [m["body"][0][0]["text"] for m in lying(redis, "clerk")] == ["one", "two"]


def test_it_says_who_sent_it_from_within_a_task(orchestrator: Orchestrator, redis: Any) -> None:
    @orchestrator.app.task(name="parent", bind=True, shared=False)
    def parent(task: Any) -> list[str]:
        orchestrator.send("clerk", Text(text="child"))
        return [child.id for child in task.request.children]

    children = parent.apply(task_id="the-parent").get()
    ((_, fields),) = redis.xrange(KEYS.stream("clerk", "0"))
    headers = json.loads(fields[b"m"])["headers"]
    assert (headers["root_id"], headers["parent_id"]) == ("the-parent", "the-parent")
    assert children == [headers["id"]]


def test_receivers_of_signals_have_their_say(
    orchestrator: Orchestrator, redis: Any, by_celery: Callable[[], list[str]]
) -> None:
    heard: list[str] = []

    def before(sender: str = "", headers: dict[str, Any] | None = None, **_: Any) -> None:
        assert headers is not None
        headers["stamp"] = "here"
        heard.append(sender)

    orchestrator.send("clerk", Text(text="unheard"))
    signals.before_task_publish.connect(before)
    try:
        orchestrator.send("clerk", Text(text="heard"))
    finally:
        signals.before_task_publish.disconnect(before)
    orchestrator.send("clerk", Text(text="unheard"))
    assert heard == by_celery() == ["clerk.Text"]
    assert [m["headers"].get("stamp") for m in lying(redis, "clerk")] == [None, "here", None]


@pytest.mark.parametrize(
    "settings",
    [{"task_send_sent_event": True}, {"task_routes": {"clerk.*": {"priority": 3}}}, {"broker_pool_limit": 0}],
)
def test_where_a_setting_has_a_say_celery_publishes(
    orchestrator: Orchestrator, by_celery: Callable[[], list[str]], settings: dict[str, Any]
) -> None:
    orchestrator.app.conf.update(settings)
    orchestrator.send("clerk", Text(text="x"))
    orchestrator.send("clerk", Text(text="x"), countdown_s=60)
    assert by_celery() == ["clerk.Text", "clerk.Text"]


def test_callbacks_are_celerys_to_publish(
    orchestrator: Orchestrator, redis: Any, by_celery: Callable[[], list[str]]
) -> None:
    app = orchestrator.app
    orchestrator.send(app.signature("plain", (1,), link=app.signature("plain", (2,))))
    assert by_celery() == ["plain"]
    (message,) = lying(redis, "celery")
    assert message["body"][2]["callbacks"][0]["args"] == [2]


def test_a_broken_connection_costs_nothing(orchestrator: Orchestrator, redis: Any) -> None:
    orchestrator.send("clerk", Text(text="0"))
    for number in range(1, 4):
        redis.client_kill_filter(_type="normal", skipme=True)
        orchestrator.send("clerk", Text(text=str(number)))
    assert [m["body"][0][0]["text"] for m in lying(redis, "clerk")] == ["0", "1", "2", "3"]


def test_threads_do_not_mix_their_messages(orchestrator: Orchestrator, redis: Any) -> None:
    def send(thread: int) -> None:
        for number in range(50):
            orchestrator.send("clerk", Text(text=f"{thread}:{number}"))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    texts = [m["body"][0][0]["text"] for m in lying(redis, "clerk")]
    assert len(texts) == 600
    for sender in range(12):
        assert [t for t in texts if t.startswith(f"{sender}:")] == [f"{sender}:{n}" for n in range(50)]
