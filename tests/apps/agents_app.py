"""A Celery app with agents and plain tasks, for the tests of sending, handling and dead letters.

``celery -A tests.apps.agents_app worker`` hosts it; a test makes its own with :func:`make`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

import redis
from celery import Celery, Task, chain, chord, group
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.request import Request
from pydantic import BaseModel, PositiveInt, SecretStr

from orchestrator import Agent, Context, Exponential, Message, Orchestrator, Retry, handles, load_settings

SOON = Exponential(initial_s=0.01, cap_s=0.02)

#: Longest time a held task waits to be let go.
HOLD_S = 30


class Add(Message):
    a: int
    b: int


class Pay(Message):
    order_id: str
    cents: PositiveInt
    password: SecretStr = SecretStr("")


class Flaky(Message):
    """Fails this often, then is handled."""

    failures: int


class Broken(Message):
    """Fails always."""

    text: str = "broken"


class Hopeless(Message):
    """Fails with an error its policy does not repeat."""


class Rejects(Message):
    pass


class Ignores(Message):
    pass


class Slow(Message):
    """Hits its soft time limit."""


class Lasts(Message):
    """Takes so long, if it is let."""

    for_s: float


class Stubborn(Message):
    """Goes on for so long whatever interrupts it."""

    for_s: float


class Returns(Message):
    """Returns something that is more than plain JSON."""

    what: str


class Hold(Message):
    """Runs until the test pushes to ``test:go:NAME``."""

    name: str


class HoldAndFail(Message):
    """Runs until the test pushes to ``test:go:NAME``, then fails."""

    name: str


class Hurried(Message):
    """Has a timeout by declaration."""


class TimeLeft(Message):
    """Returns the time that is left for it; before that, it sends another such message, as ``send`` says."""

    send: dict[str, Any] | None = None


class Perishable(Message):
    """Becomes a dead letter when it expires, by declaration."""


class Deadly(Message):
    """Kills the process that runs it: always, or as ``lives`` says of each run: ``k`` kills, ``f`` fails."""

    name: str
    lives: str = ""


class FailsWhile(Message):
    """Fails while there is this key in Redis."""

    key: str


class WhoAmI(Message):
    pass


class Ticks(Message):
    """Sends itself to its agent again, so many times."""

    name: str
    left: int


class Unhosted(Message):
    """No agent handles this."""


class Hopelessness(LookupError):
    """Named in a policy's ``never`` by its base class."""


class Receipt(BaseModel):
    number: int


class TextlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class DeclinedError(Exception):
    """Cannot be unpickled, as many that take arguments of their own."""

    def __init__(self, order: str, *, reason: str) -> None:
        super().__init__(f"order {order}: {reason}")


class Worker(Agent):
    name = "worker"
    retry = Retry(max_retries=2, backoff=SOON)

    @handles(Add)
    def add(self, message: Add) -> int:
        return message.a + message.b

    @handles(Pay)
    def pay(self, message: Pay, context: Context) -> str:
        return f"{message.order_id}:{message.cents}:{message.password.get_secret_value()}"

    @handles(Flaky)
    def flaky(self, message: Flaky, context: Context) -> int:
        if context.attempt <= message.failures:
            raise ConnectionError(f"attempt {context.attempt}")
        return context.attempt

    @handles(Broken)
    def broken(self, message: Broken) -> None:
        if message.text == "textless":
            raise TextlessError
        if message.text == "declined":
            raise DeclinedError("o1", reason="no funds")
        if message.text == "exit":
            sys.exit(3)
        try:
            raise OSError("cause")
        except OSError as error:
            raise ValueError(message.text) from error

    @handles(Hopeless, retry=Retry(max_retries=5, backoff=SOON, never=("LookupError",)))
    def hopeless(self, message: Hopeless) -> None:
        raise Hopelessness("nowhere")

    @handles(Rejects)
    def rejects(self, message: Rejects) -> None:
        raise Reject("not mine", requeue=False)

    @handles(Ignores)
    def ignores(self, message: Ignores) -> None:
        raise Ignore

    @handles(Slow, retry=Retry(max_retries=1, backoff=SOON))
    def slow(self, message: Slow) -> None:
        raise SoftTimeLimitExceeded(5)

    @handles(Lasts, retry=Retry(max_retries=1, backoff=SOON))
    def lasts(self, message: Lasts) -> float:
        threading.Event().wait(message.for_s)
        return message.for_s

    @handles(Stubborn, retry=Retry(max_retries=0))
    def stubborn(self, message: Stubborn) -> None:
        until_s = time.monotonic() + message.for_s
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(SoftTimeLimitExceeded):
                threading.Event().wait(left_s)

    @handles(Returns)
    def returns(self, message: Returns) -> Any:
        return {"model": Receipt(number=7), "tuple": (1, 2), "set": {3}, "object": object}[message.what]

    @handles(FailsWhile)
    def fails_while(self, message: FailsWhile) -> None:
        if _record().exists(message.key):
            raise ValueError(message.key)

    @handles(WhoAmI)
    def who_am_i(self, message: WhoAmI, context: Context) -> dict[str, Any]:
        return {
            "id": context.id,
            "agent": context.agent,
            "attempt": context.attempt,
            "redelivered": context.redelivered,
            "metadata": dict(context.metadata),
            "named": bool(context.worker),
        }

    @handles(Ticks)
    def ticks(self, message: Ticks, context: Context) -> None:
        note = f"{message.left} {context.attempt}"
        if context.worker == "eager" or not os.environ.get("ORCHESTRATOR_BROKER_URL"):
            NOTED.append(note)
        else:
            _record().rpush(f"test:noted:{message.name}", note)
        if message.left:
            context.send_self(Ticks(name=message.name, left=message.left - 1), countdown_s=0.01)
        elif message.name == "fails":
            raise ValueError("the last one")

    @handles(Hold)
    def hold(self, message: Hold) -> str:
        _record().blpop([f"test:go:{message.name}"], timeout=HOLD_S)
        return message.name

    @handles(HoldAndFail)
    def hold_and_fail(self, message: HoldAndFail) -> None:
        _record().blpop([f"test:go:{message.name}"], timeout=HOLD_S)
        raise ValueError(message.name)

    @handles(Hurried, timeout_s=30)
    def hurried(self, message: Hurried) -> None:
        pass

    @handles(TimeLeft)
    def time_left(self, message: TimeLeft, context: Context) -> list[Any]:
        sent = None
        if message.send is not None:
            sent = context.orchestrator.send("worker", TimeLeft(), **message.send).id
        return [context.remaining_s(), sent]

    @handles(Perishable, expires_s=0.05, dead_letter_expired=True)
    def perishable(self, message: Perishable) -> str:
        return "fresh"

    @handles(Deadly)
    def deadly(self, message: Deadly, context: Context) -> None:
        key = f"test:ran:{message.name}"
        runs: Any = _record().rpush(key, f"{os.getpid()} {context.attempt} {context.redelivered}")
        life = message.lives[runs - 1 : runs] if message.lives else "k"
        if life == "f":
            raise ConnectionError("a life")
        if life == "k":
            os.kill(os.getpid(), signal.SIGKILL)


def _record() -> redis.Redis:
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


class OwnRequest(Request):
    """A request class of the user's own."""


class CountingTask(Task):
    """A base class of the user's own."""

    abstract = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        _record().incr("test:on_success")


def add(a: int, b: int) -> int:
    return a + b


def total(numbers: list[int]) -> int:
    return sum(numbers)


def fail(text: str) -> None:
    raise ValueError(text)


def bound(task: Task) -> str:
    return str(task.name)


def again(task: Task, failures: int) -> int:
    """Celery's own way of trying again."""
    if task.request.retries < failures:
        raise task.retry(countdown=0.01, max_retries=3, exc=ValueError("again"))
    return int(task.request.retries)


def replaced(task: Task, a: int, b: int, kind: str = "task") -> Any:
    tasks = task.app.tasks
    add = tasks["plain.add"]
    by = {
        "task": add.s(a, b),
        "self": task.s(a, b),
        "chain": chain(add.s(a, 0), add.s(b)),
        "chord": chord([add.s(a, 0), add.s(b, 0)], tasks["plain.total"].s()),
        "group": group(add.s(a, b), add.s(b, a)),
        "starmap": add.starmap([(a, b), (b, a)]),
        "failing": tasks["plain.fail"].s(str(a)),
        "failing chord": chord([add.s(a, 0), tasks["plain.fail"].s(str(a))], tasks["plain.total"].s()),
        "failing body": chord([add.s(a, 0), add.s(b, 0)], tasks["plain.fail"].si(str(a))),
        "failing group": group(add.s(a, b), tasks["plain.fail"].s(str(a))),
        "failing chunks": add.chunks([(a, b), (a, "no")], 1).group(),
        "failing chain": chain(tasks["plain.fail"].s(str(a)), add.s(a), add.s(b)),
        "failing last": chain(add.s(a, b), tasks["plain.fail"].si(str(a))),
        "chord in a chain": chain(
            chord([add.s(a, 0), tasks["plain.fail"].s(str(a))], tasks["plain.total"].s()), add.s(a), add.s(b)
        ),
        "group in a chain": chain(
            add.s(a, 0), group(tasks["plain.fail"].si(str(a)), add.s(b)), tasks["plain.total"].s()
        ),
    }
    return task.replace(by[kind])


#: What was noted in this process, where there is no Redis.
NOTED: list[str] = []


def noted(task: Task, what: Any, name: str) -> None:
    if task.request.is_eager:
        NOTED.append(str(what))
    else:
        _record().rpush(f"test:noted:{name}", str(what))


def kills_its_worker_once(_request: Any, _error: Any, _traceback: Any) -> None:
    """An errback that Celery calls within a worker: the first call kills it."""
    if _record().incr("test:kills") == 1:
        os.kill(os.getpid(), signal.SIGKILL)


#: What is shut in this process, where there is no Redis.
SHUT: set[str] = set()


def gated(task: Task, name: str) -> str:
    """Fails while ``test:shut:NAME`` is there."""
    if name in SHUT if task.request.is_eager else _record().exists(f"test:shut:{name}"):
        raise ValueError(f"{name} is shut")
    return name


def lasts(for_s: float) -> None:
    threading.Event().wait(for_s)


def hold(name: str) -> str:
    client = _record()
    client.incr(f"test:began:{name}")
    client.blpop([f"test:go:{name}"], timeout=HOLD_S)
    return name


def make(broker_url: str | None = None, *, eager: bool = False, hosts: bool = True, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    app = Celery("agents", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = broker_url
        app.conf.broker_url = broker_url
        app.conf.result_backend = broker_url
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings(**settings))
    for function in (add, total, fail, hold, lasts, kills_its_worker_once):
        app.task(name=f"plain.{function.__name__}", shared=False)(function)
    for method in (bound, again, replaced, noted, gated):
        app.task(name=f"plain.{method.__name__}", bind=True, shared=False)(method)
    app.task(name="plain.limited", time_limit=1, shared=False)(hold)
    app.task(name="plain.early", acks_late=False, shared=False)(add)
    app.task(name="plain.own", Request=OwnRequest, shared=False)(add)
    app.task(name="plain.counted", base=CountingTask, shared=False)(add)
    if hosts:
        orchestrator.host(Worker)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
