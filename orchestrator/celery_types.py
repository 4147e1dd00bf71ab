"""Protocols of Celery's and kombu's objects: the attributes this library relies on.

Celery is untyped, and kombu's transports nearly so. A parameter of one of these types says which object it is and what
is read of it. When a release of Celery or kombu renames an attribute, compare it with this list. What this library
changes in their classes is listed in ``docs/hooks.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol


class Message(Protocol):
    """A delivered kombu message (``kombu.transport.virtual.Message``)."""

    #: ``None`` once its channel was closed.
    channel: Any
    #: The names of the formats it may be decoded from.
    accept: Any
    delivery_tag: Any
    headers: Any
    body: Any
    content_type: Any
    content_encoding: Any

    @property
    def properties(self) -> Any: ...

    @property
    def delivery_info(self) -> Any: ...

    @property
    def payload(self) -> Any: ...

    @property
    def acknowledged(self) -> bool: ...

    def ack(self) -> Any: ...

    def reject(self, requeue: bool = False) -> Any: ...

    def ack_log_error(self, logger: Any, errors: Any) -> Any: ...

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> Any: ...


class QueueConsumer(Protocol):
    """A kombu consumer of queues (``kombu.Consumer``); Celery's is ``consumer.task_consumer``."""

    channel: Any
    #: Called with a message whose content cannot be unpacked, and the error.
    on_decode_error: Callable[..., Any] | None

    @property
    def queues(self) -> Iterable[Any]: ...

    @property
    def accept(self) -> Any: ...


class Pool(Protocol):
    """A worker's pool (``celery.concurrency.base.BasePool``)."""

    @property
    def num_processes(self) -> int: ...

    @property
    def options(self) -> Mapping[str, Any]: ...

    def apply_async(self, target: Callable[..., Any], args: Any = (), kwargs: Any = None, **options: Any) -> Any: ...

    def maintain_pool(self) -> Any: ...


class EventLoop(Protocol):
    """kombu's event loop (``kombu.asynchronous.Hub``)."""

    def call_repeatedly(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any: ...

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any: ...

    def add_reader(self, fds: Any, callback: Callable[..., Any], *args: Any) -> Any: ...

    def remove_reader(self, fd: Any) -> Any: ...


class Consumer(Protocol):
    """A worker's consumer (``celery.worker.consumer.Consumer``), the parent of its bootsteps."""

    @property
    def app(self) -> Any: ...

    @property
    def hostname(self) -> str: ...

    @property
    def pool(self) -> Any: ...

    @property
    def task_consumer(self) -> Any: ...

    @property
    def event_dispatcher(self) -> Any: ...

    @property
    def connection(self) -> Any: ...

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]: ...

    @property
    def strategies(self) -> MutableMapping[str, Any]: ...


class RequestContext(Protocol):
    """A task's request (``celery.app.task.Context``), as ``self.request`` shows it where the task runs."""

    id: Any
    retries: int
    headers: Any
    delivery_info: Any
    hostname: Any
    called_directly: bool


class Task(Protocol):
    """A registered task (``celery.app.task.Task``)."""

    name: str
    acks_late: bool
    reject_on_worker_lost: bool
    ignore_result: bool
    store_errors_even_if_ignored: bool
    #: The class of its requests, or that class's import path.
    Request: Any
    #: The function that makes the handler of its messages, or that function's import path.
    Strategy: Any

    @property
    def app(self) -> Any: ...

    @property
    def backend(self) -> Any: ...

    @property
    def request_stack(self) -> Any: ...


class Canvas(Protocol):
    """A chain, a group or a chord, as a checker that has types of Celery's tells it from a task's signature."""

    @property
    def tasks(self) -> Any: ...
