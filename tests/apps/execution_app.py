"""An app whose tasks have something around their function: hooks, a ``__call__``, headers, results that are none."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import redis
from celery import Celery, Task
from celery.backends.cache import CacheBackend
from celery.exceptions import Reject, WorkerShutdown, WorkerTerminate
from kombu.exceptions import EncodeError

from orchestrator import Agent, Exponential, Message, Orchestrator, Retry, handles, load_settings
from orchestrator.worker.execution.message_supervision import supervision_of

SOON = Retry(max_retries=3, backoff=Exponential(initial_s=0.01, cap_s=0.02))

#: What was noted in this process, where there is no Redis.
NOTED: list[str] = []


def _note(what: str) -> None:
    url = os.environ.get("ORCHESTRATOR_BROKER_URL")
    if url is None:
        NOTED.append(what)
    else:
        with redis.Redis.from_url(url) as client:
            client.rpush("test:noted", what)


class Prepared(Task):
    """Is not ready on its first two attempts."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        _note(f"before_start {self.request.retries}")
        if self.request.retries < 2:
            raise ConnectionError("not ready")
        kwargs["ready"] = True


class Slow(Task):
    """Takes its time before it begins."""

    abstract = True

    def before_start(self, *_: Any) -> None:
        threading.Event().wait(30)


class Raising(Task):
    """Fails before its function with something that is no exception."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise NO_EXCEPTIONS[args[0]](args[0])


class Called(Task):
    """Fails before its function on its first two attempts."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.request.retries < 2:
            raise ConnectionError("not called")
        return self.run(*args, **kwargs)


class Catching(Task):
    """Knows what to do about its function's error."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.run(*args, **kwargs)
        except ValueError as error:
            return f"caught {error}"


class Hooked(Task):
    """Its hooks fail."""

    abstract = True

    def on_retry(self, *_: Any) -> None:
        _note("on_retry")
        raise RuntimeError("on_retry")

    def on_failure(self, *_: Any) -> None:
        _note("on_failure")
        raise RuntimeError("on_failure")

    def on_success(self, *_: Any) -> None:
        _note("on_success")
        raise RuntimeError("on_success")

    def after_return(self, *_: Any) -> None:
        _note("after_return")
        raise RuntimeError("after_return")


class Refusing(CacheBackend):
    """Cannot store a success."""

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state == "SUCCESS":
            raise EncodeError("too large")
        return super().store_result(task_id, result, state, *args, **kwargs)


class Give(Message):
    """Asks for something of that kind."""

    kind: str


class Weird(BaseException):
    """No ``Exception``, as libraries have them that want to get past ``except Exception``."""


#: What may be raised that is no ``Exception``, and yet ends nothing but the attempt.
NO_EXCEPTIONS: dict[str, type[BaseException]] = {
    "weird": Weird,
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "shutdown": WorkerShutdown,
    "terminate": WorkerTerminate,
}


class Raise(Message):
    """Asks for an error of that kind."""

    kind: str


class Giver(Agent):
    name = "giver"
    retry = SOON

    @handles(Give)
    def give(self, message: Give) -> Any:
        return _give(message.kind)

    @handles(Raise)
    def fail(self, message: Raise) -> None:
        raise NO_EXCEPTIONS[message.kind](message.kind)


class _Coroutine:
    def __call__(self) -> Any:
        return asyncio.sleep(0, "slept")


def _give(kind: str) -> Any:
    circle: list[Any] = []
    circle.append(circle)

    def counting() -> Iterator[int]:
        yield 1

    made: dict[str, Callable[[], Any]] = {
        "object": object,
        "nested": lambda: {"inner": [object()]},
        "circle": lambda: circle,
        "bytes": lambda: b"\xff",
        "nan": lambda: math.nan,
        "infinite": lambda: -math.inf,
        "nested_nan": lambda: {"inner": [math.nan]},
        "half": lambda: "\ud800",
        "nested_half": lambda: ["a", {"inner": "\udfff"}],
        "half_key": lambda: {"\ud800": 1},
        "long": lambda: 10**5000,
        "coroutine": _Coroutine(),
        "generator": counting,
        "json": lambda: {"type": "report"},
    }
    return made[kind]()


def prepared(*, ready: bool = False) -> bool:
    return ready


def slow() -> None:
    """Nothing that takes time."""


def called(task: Task) -> int:
    return int(task.request.retries)


def catching(text: str) -> str:
    raise ValueError(text)


def countdown(task: Task, left: int) -> str:
    """Calls itself, and catches its own error."""
    if left == 0:
        raise ValueError("none left")
    try:
        return str(task.run(left - 1))
    except ValueError as error:
        return f"{left} after {error}"


def hooked_fail(task: Task, failures: int) -> str:
    _note(f"ran {task.request.retries}")
    if task.request.retries < failures:
        raise ValueError("failed")
    return "ran"


def raises(task: Task, kind: str, failures: int = 9) -> str:
    if task.request.retries < failures:
        raise NO_EXCEPTIONS[kind](kind)
    return "recovered"


def raises_before(kind: str) -> str:
    return kind


def gives(kind: str) -> Any:
    return _give(kind)


def stored(kind: str) -> Any:
    return _give(kind)


def seen(task: Task, retries: int = 0) -> dict[str, Any]:
    """What a task sees of its message, on its first or a later attempt of Celery's kind."""
    if task.request.retries < retries:
        raise task.retry(countdown=0.01, max_retries=5)
    return {"headers": dict(task.request.headers or {}), "eta": task.request.eta, "retries": task.request.retries}


def fails_then_seen(task: Task) -> dict[str, Any]:
    if not task.request.retries:
        raise ConnectionError("once")
    return seen(task)


def passes_on(task: Task, name: str) -> None:
    """Sends a child its own headers."""
    task.app.tasks["plain.child"].apply_async((name,), headers=task.request.headers)


def child(task: Task, name: str) -> None:
    supervised = supervision_of(task.request) is not None
    _note(f"{name} {supervised} {sorted(task.request.headers or {})}")


def rejects() -> None:
    raise Reject("not mine", requeue=False)


async def sleeps() -> str:
    await asyncio.sleep(0)
    return "slept"


def yields() -> Iterator[int]:
    yield 1


def _fail_twice(task_id: str, task: Task) -> None:
    """What a loader does before each attempt."""
    if task.name == "plain.loaded" and task.request.retries < 2:
        raise ConnectionError("not loaded")


def loaded(task: Task) -> int:
    return int(task.request.retries)


def make(url: str | None = None, *, eager: bool = False, **settings: Any) -> Orchestrator:
    celery = Celery("execution", broker=url, set_as_current=False)
    celery.conf.update(task_always_eager=eager, task_ignore_result=True)
    orchestrator = Orchestrator(celery, load_settings(**settings))
    for function, options in (
        (prepared, {"base": Prepared}),
        (slow, {"base": Slow}),
        (called, {"base": Called, "bind": True}),
        (catching, {"base": Catching}),
        (countdown, {"bind": True}),
        (hooked_fail, {"base": Hooked, "bind": True}),
        (raises, {"bind": True}),
        (raises_before, {"base": Raising}),
        (gives, {}),
        (stored, {"ignore_result": False}),
        (seen, {"bind": True}),
        (fails_then_seen, {"bind": True}),
        (passes_on, {"bind": True}),
        (child, {"bind": True}),
        (rejects, {}),
        (loaded, {"bind": True}),
        (sleeps, {}),
        (yields, {}),
    ):
        celery.task(function, name=f"plain.{function.__name__}", shared=False, **options)
    celery.tasks["plain.stored"].backend = Refusing(app=celery, backend="memory")
    celery.loader.on_task_init = _fail_twice
    orchestrator.host(Giver)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
