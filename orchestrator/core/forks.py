"""Forks while other threads run: a child has no other threads, so what these held or had begun stays so in it for ever.

A prefork worker replaces a pool process while its threads send heartbeats and sweep. Where one of them held a lock, or
was importing a module, the first task of the new process that wanted the same would wait for ever.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from functools import cached_property
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, TypeVar
from weakref import WeakSet

T = TypeVar("T")

#: How long a fork waits for the imports of other threads.
_WAIT_S: Final = 5.0

_POLL_S: Final = 0.001

#: Python's locks of the modules that are being imported, by name; weakly referenced.
_MODULE_LOCKS: Final[dict[Any, Any]] = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {})


class ForkSafeLock:
    """A lock that nobody holds in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """In a forked child: whoever held it is not there."""
        self._lock = threading.Lock()


class lazy_property(cached_property[T]):  # noqa: N801 - a decorator, as property is
    """A ``functools.cached_property`` that a forked child can compute even if another thread was at it in the fork.

    Before Python 3.12 a cached property holds a lock while it computes, one for all instances of the class.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        super().__init__(function)
        _PROPERTIES.append(self)

    def renew(self) -> None:
        """In a forked child: whoever held its lock is not there."""
        if hasattr(self, "lock"):
            self.lock = threading.RLock()


_LOCKS: Final[WeakSet[ForkSafeLock]] = WeakSet()
_PROPERTIES: Final[list[lazy_property[Any]]] = []


def _in_child() -> None:
    for lock in list(_LOCKS):
        lock.renew()
    for one in _PROPERTIES:
        one.renew()


def _await_imports() -> None:
    """Wait until no other thread imports a module; a child would find it half imported, and locked."""
    until = monotonic() + _WAIT_S
    while _others_import() and monotonic() < until:
        sleep(_POLL_S)


def _others_import() -> bool:
    me = threading.get_ident()
    for reference in list(_MODULE_LOCKS.values()):
        lock = reference()
        if lock is not None and getattr(lock, "owner", None) not in (None, me):
            return True
    return False


os.register_at_fork(before=_await_imports, after_in_child=_in_child)
