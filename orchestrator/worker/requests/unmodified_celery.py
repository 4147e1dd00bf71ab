"""Whether Celery's functions for the execution of a task are its own, or were wrapped by another tool.

Agents of New Relic, Sentry and others replace Celery's functions, or a task, by wrappers, which the fast path would not
call. A wrapt proxy imitates the wrapped object's attributes and ``isinstance``, but not ``type()`` and identity.
"""

from __future__ import annotations

from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

from celery.app import task as celery_task
from celery.app import trace as celery_trace
from celery.worker import request as celery_request
from celery.worker import strategy as celery_strategy

from orchestrator.worker.execution.attempts import Attempts

#: Variables of Celery's tracer that hold the task, and the function that it calls.
_OF_THE_TASK: Final = ("task", "fun")

#: Methods of Celery's request that the fast path does not call.
_REQUEST_METHODS: Final = ("__init__", "execute_using_pool", "on_accepted", "on_success")


def is_unmodified(task: Any, strategy: Any) -> bool:
    """Whether only Celery's functions and ours execute messages of this task."""
    return (
        all(
            _is_of(vars(module).get(name), module)
            for module, name in (
                (celery_trace, "build_tracer"),
                (celery_trace, "fast_trace_task"),
                (celery_trace, "trace_task_ret"),
                (celery_strategy, "default"),
            )
        )
        and all(_is_of(vars(celery_request.Request).get(name), celery_request) for name in _REQUEST_METHODS)
        and _is_of(strategy, celery_strategy)
        and _calls_only(task.__trace__, task)
        and _has_own_call(task)
        and _same(task.run, task.__handle__)
    )


def _is_of(function: Any, module: ModuleType) -> bool:
    """Whether the function is a plain function defined in this module."""
    return type(function) is FunctionType and function.__globals__ is vars(module)


def _calls_only(tracer: Any, task: Any) -> bool:
    """Whether the tracer is Celery's and was built for this task, not for a wrapper of it."""
    if not _is_of(tracer, celery_trace):
        return False
    variables = dict(zip(tracer.__code__.co_freevars, tracer.__closure__ or (), strict=False))
    return all(name in variables and variables[name].cell_contents is task for name in _OF_THE_TASK)


def _has_own_call(task: Any) -> bool:
    """Whether a call of the task is our attempt, which calls only ``run``."""
    cls = type(task)
    called = vars(celery_task.Task).get("__call__")
    return (
        cls.__call__ is vars(Attempts)["__call__"]
        and not task.__own_call__
        and any(_is_of(called, module) for module in (celery_task, celery_trace))
    )


def _same(one: Any, other: Any) -> bool:
    if type(one) is MethodType and type(other) is MethodType:
        return one.__func__ is other.__func__ and one.__self__ is other.__self__
    return one is other
