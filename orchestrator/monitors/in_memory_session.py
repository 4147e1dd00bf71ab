"""A session of eager mode."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from orchestrator.core.deliveries.down import Down
from orchestrator.core.errors import OwnerGone
from orchestrator.monitors.monitors import Target
from orchestrator.worker.execution.owner import OpenSession, Owner, checked_wait

if TYPE_CHECKING:
    from orchestrator.monitors.in_memory import InMemoryMonitors


class InMemorySession:
    """An owner of monitors in memory that is not an agent."""

    def __init__(self, monitors: InMemoryMonitors) -> None:
        self._monitors = monitors
        self._downs: deque[Down] = deque()
        self._changed = threading.Condition()
        self._open = False
        self._id = ""
        self._owner = Owner("")
        self._block: OpenSession | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return self._id

    def __enter__(self) -> InMemorySession:
        """Open it."""
        self._id = self._monitors.add_session(self)
        self._open = True
        self._owner = Owner(self._id)
        self._block = OpenSession(self._owner)
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        if self._block is not None:
            self._block.close()
            self._block = None
        self.close()

    def close(self) -> None:
        """Close it and remove its monitors."""
        self._open = False
        self._monitors.remove_session(self._id)
        with self._changed:
            self._changed.notify_all()

    def monitor(self, target: Target, tag: Any = "") -> int:
        """Monitor on behalf of this session."""
        self._owner.refuse_fork("monitor")
        return self._monitors.monitor(target, tag, owner=self._owner)

    def put(self, down: Down) -> None:
        """Add a DOWN to its inbox."""
        with self._changed:
            self._downs.append(down)
            self._changed.notify_all()

    def next_down(self, timeout_s: float) -> Down | None:
        """The next DOWN; ``None`` if there is none within ``timeout_s`` seconds.

        Raises:
            OwnerGone: it is closed.
            NoOwner: this process is a fork of the one that has opened it.
        """
        self._owner.refuse_fork("DOWN")
        until = time.monotonic() + checked_wait(timeout_s)
        with self._changed:
            while True:
                while self._downs:
                    down = self._downs.popleft()
                    if not self._monitors.is_flushed(down.ref):
                        return down
                if not self._open:
                    raise OwnerGone(self._id)
                left = until - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
