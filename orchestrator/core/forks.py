"""Forks while other threads run: a child has no other threads, so what these held or had begun stays so in it for ever.

A prefork worker replaces a pool process while its threads send heartbeats and sweep. Where one of them held a lock, or
was importing a module, the first task of the new process that wanted the same would wait for ever.
"""

from __future__ import annotations

import importlib
import os
import threading
from functools import cached_property
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet

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


_LOCKS: Final[WeakSet[ForkSafeLock]] = WeakSet()
_CLASSES: Final[set[type]] = set()


def renew_cached_properties(cls: type) -> None:
    """Have a forked child work out the properties of a class that another thread is working out.

    Until Python 3.12, a ``functools.cached_property`` has a lock, which is held meanwhile.
    """
    _CLASSES.add(cls)


def _in_child() -> None:
    for lock in list(_LOCKS):
        lock.renew()
    for cls in _CLASSES:
        for one in vars(cls).values():
            if isinstance(one, cached_property) and hasattr(one, "lock"):
                one.lock = threading.RLock()


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
