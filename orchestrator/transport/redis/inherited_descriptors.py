"""A forked child must not hold its parent's connections to Redis open.

Redis sees a connection as closed when the last process that holds it has ended. A child that outlives its worker would
so hide the worker's death until the lease runs out. The descriptors are replaced, not closed: objects in the child
still refer to their numbers, which must not come to mean anything else, and nothing may be sent in the parent's name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet


class InheritedDescriptors:
    """The connection pools and descriptors of this process that a forked child must let go of."""

    def __init__(self) -> None:
        self._pools: WeakSet[Any] = WeakSet()
        self._files: set[int] = set()
        self._is_registered = False

    def watch_pool(self, pool: Any) -> None:
        """Let go of every connection of this redis-py pool in a child."""
        self._register()
        self._pools.add(pool)

    def watch_file(self, descriptor: int) -> None:
        """Let go of this descriptor in a child, until :meth:`forget_file`."""
        self._register()
        self._files.add(descriptor)

    def forget_file(self, descriptor: int) -> None:
        """The descriptor is closed, or about to be."""
        self._files.discard(descriptor)

    def _register(self) -> None:
        if not self._is_registered and hasattr(os, "register_at_fork"):
            self._is_registered = True
            os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        # In the child, before any other code of its own: no locks, no logging.
        nothing = -1
        with contextlib.suppress(Exception):
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for descriptor in (*self._files, *self._sockets()):
                with contextlib.suppress(OSError):
                    os.dup2(nothing, descriptor, inheritable=False)
        if nothing >= 0:
            os.close(nothing)
        self._files.clear()

    def _sockets(self) -> Iterator[int]:
        for pool in tuple(self._pools):
            known = (*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ()))
            for connection in known:
                sock = getattr(connection, "_sock", None)
                if sock is not None and sock.fileno() >= 0:
                    yield sock.fileno()


INHERITED = InheritedDescriptors()
