"""Whether somebody has wrapped what executes a task: wrapt proxies, which answer as what they wrap, are seen too."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from celery.app import trace
from celery.app.task import Task
from celery.worker import request as celery_request
from celery.worker import strategy

from orchestrator.worker.requests.unmodified_celery import is_unmodified
from tests.apps import agents_app


class Proxy:
    """As ``wrapt.FunctionWrapper``: class, module, code and all other attributes are those of what it wraps."""

    def __init__(self, wrapped: Any) -> None:
        self.__wrapped__ = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == other)

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return Proxy(self.__wrapped__.__get__(instance, owner))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return self.__wrapped__.__class__
        return super().__getattribute__(name)


def _strategy() -> Callable[..., Any]:
    def task_message_handler() -> None:
        """Stands for the closure of Celery's strategy."""

    return FunctionType(task_message_handler.__code__, vars(strategy))


@pytest.fixture
def task() -> Any:
    task = agents_app.make("redis://127.0.0.1:1/0").app.tasks["plain.add"]
    task.__trace__ = trace.build_tracer(task.name, task, app=task.app)
    return task


def test_a_task_that_nobody_has_wrapped_is_unmodified(task: Any) -> None:
    assert is_unmodified(task, _strategy())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (trace, "build_tracer"),
        (trace, "fast_trace_task"),
        (trace, "trace_task_ret"),
        (strategy, "default"),
        (Task, "__call__"),
        (celery_request.Request, "on_success"),
        (celery_request.Request, "on_accepted"),
    ],
)
def test_a_wrapper_of_celerys_own_is_seen(task: Any, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    monkeypatch.setattr(module, name, Proxy(vars(module)[name]))
    assert not is_unmodified(task, _strategy())


def test_a_plain_function_in_the_place_of_celerys_is_seen(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = trace.build_tracer

    def build_tracer(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    build_tracer.__module__, build_tracer.__qualname__ = original.__module__, original.__qualname__
    monkeypatch.setattr(trace, "build_tracer", build_tracer)
    assert not is_unmodified(task, _strategy())


def test_a_wrapped_task_is_seen(task: Any) -> None:
    for wrap in (
        lambda: setattr(task, "__trace__", Proxy(task.__trace__)),
        lambda: setattr(task, "__trace__", trace.build_tracer(task.name, Proxy(task), app=task.app)),
        lambda: setattr(task, "run", Proxy(task.run)),
        lambda: setattr(type(task), "__call__", Proxy(type(task).__call__)),
    ):
        kept, run = task.__trace__, vars(task).get("run")
        wrap()
        assert not is_unmodified(task, _strategy())
        task.__trace__ = kept
        if run is None:
            vars(task).pop("run", None)
        if "__call__" in vars(type(task)):
            delattr(type(task), "__call__")
        assert is_unmodified(task, _strategy())
    assert not is_unmodified(task, Proxy(_strategy()))


def test_a_task_with_a_call_of_its_own_is_seen() -> None:
    class Called(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    orchestrator = agents_app.make("redis://127.0.0.1:1/0")
    task = orchestrator.app.task(agents_app.total, name="plain.called", base=Called, shared=False)
    orchestrator.host()
    task = orchestrator.app.tasks["plain.called"]
    task.__trace__ = trace.build_tracer(task.name, task, app=task.app)
    assert not is_unmodified(task, _strategy())
