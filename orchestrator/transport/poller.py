"""kombu's poller, less what only its unacknowledged-hash needs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.utils.eventio import READ

from orchestrator.core.log import get_logger
from orchestrator.transport.older_kombu import KombuPoller

logger = get_logger(__name__)

#: How often to look for a connection on which Redis owes an answer.
_WATCH_EVERY_S = 1.0

#: How often the event loop checks for the end of an isolation.
_LOOK_EVERY_S = 0.05


class _Wakeup:
    """A pair of sockets by which a sleeping poll is woken, from any thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._reader.fileno()

    def ring(self) -> None:
        """Wake it. Once closed, this does nothing."""
        with contextlib.suppress(OSError):
            self._writer.send(b"x")

    def drain(self) -> None:
        """Let it sleep again."""
        with contextlib.suppress(OSError):
            self._reader.recv(4096)

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


def _ask_again() -> None:
    """Nothing to do: the loop asks for messages before it sleeps again."""


class Poller(KombuPoller):
    """Waits for the reading connections of all channels. Nothing is restored by age: only a death requeues."""

    _watching: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._look_again = False
        self._loop: Any = None
        #: Descriptors that were opened since the event loop was last told which to watch.
        self._unwatched: set[int] = set()
        #: Always readable: while the event loop watches it, the loop does not sleep.
        self._always_readable: _Wakeup | None = None
        self._is_watching_it = False
        #: Wakes a caller of :meth:`get` that waits for a slot: Celery in a gevent or eventlet pool.
        self._slots: _Wakeup | None = None
        self._awaits_slot = False
        #: Whether a channel asked for nothing at the last poll, with no free slot: a free slot then wakes the loop.
        self._is_full = False

    def look_again(self) -> None:
        """Do not sleep for long: what is waited for does not announce itself to the event loop."""
        if not self._look_again:
            self._look_again = True
            loop = get_event_loop()
            if loop is not None:
                loop.call_later(_LOOK_EVERY_S, self._looked)

    def _looked(self) -> None:
        self._look_again = False

    def on_poll_start(self) -> None:
        """Ask for messages where more are allowed; deliver the isolated one."""
        for channel in tuple(self._channels):
            if channel.delivery.isolated is not None:
                channel.delivery.deliver_isolated()
        self._keep_awake(not self.one_at_a_time and any(channel.delivery.is_possible() for channel in self._channels))
        # Set first: a slot that another thread frees meanwhile must wake the loop, too.
        self._is_full = True
        super().on_poll_start()
        self._is_full = any(channel.active_queues and not channel.qos.can_consume() for channel in self._channels)

    def _keep_awake(self, wanted: bool) -> None:
        """Have the loop come back at once to deliver what is here already; that takes no round trip."""
        if self._loop is None or wanted is self._is_watching_it:
            return
        if self._always_readable is None:
            self._always_readable = _Wakeup()
            self._always_readable.ring()
        if wanted:
            self._loop.add_reader(self._always_readable.fileno(), self._deliver_buffered)
        else:
            self._loop.remove_reader(self._always_readable.fileno())
        self._is_watching_it = wanted

    def _deliver_buffered(self) -> None:
        for channel in tuple(self._channels):
            if channel.delivery.is_possible():
                channel.delivery.deliver_buffered()

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802
        if not (self._is_watching_it and channel.delivery.is_possible()):
            super()._register_BRPOP(channel)

    def _register(self, channel: Any, client: Any, type: str) -> None:
        super()._register(channel, client, type)
        self._unwatched.add(client.connection._sock.fileno())

    @property
    def fds(self) -> dict[int, Any]:
        """The descriptors to watch. With an event loop, those that it does not watch yet: kombu adds them each time."""
        listed: dict[int, Any] = super().fds
        if self._loop is None or self._in_protected_read:
            return listed
        unwatched, self._unwatched = self._unwatched, set()
        watched = self._loop.readers
        return {fd: channel for fd, channel in listed.items() if fd in unwatched or fd not in watched}

    def close(self) -> None:
        """Forget all channels."""
        super().close()
        self._keep_awake(wanted=False)
        for wakeup in filter(None, (self._always_readable, self._slots)):
            wakeup.close()
        self._always_readable = self._slots = None

    def on_poll_init(self, poller: Any) -> None:
        """Remember the event loop's poller. kombu also requeues messages here, which in this transport a sweep does."""
        self.poller = poller

    def maybe_restore_messages(self) -> None:
        """Nothing to restore: the sweep does it, and knows who is dead."""

    def watch(self, loop: Any) -> None:
        """Look regularly for connections that died without being closed. Called with each new event loop."""
        if self._watching is not None:
            self._watching.cancel()
        # Another loop, or one that has forgotten all it watched.
        self._loop, self._is_watching_it = loop, False
        self._watching = loop.call_repeatedly(_WATCH_EVERY_S, self.maybe_check_brpop_health)

    def maybe_check_brpop_health(self) -> None:
        """Close reading connections on which an answer is overdue; they are opened again at the next poll.

        kombu does this after 25 s; a network that swallows packets would stop a worker for as long.
        """
        for channel in tuple(self._channels):
            overdue_s = channel.overdue_s()
            if overdue_s is not None:
                logger.warning("no reply from Redis for %.0f s; connecting again", overdue_s)
                channel.client.connection.disconnect()

    @property
    def one_at_a_time(self) -> bool:
        """Whether somebody drains by hand; then a call delivers one message, as on every kombu transport."""
        return bool(self._in_protected_read)

    def get(self, callback: Callable[..., Any], timeout: float | None = None) -> None:
        """Deliver one message; those that came in the same answer from Redis first."""
        for channel in tuple(self._channels):
            if channel.delivery.deliver_next():
                return
        if self._look_again:
            self._look_again = False
            timeout = _LOOK_EVERY_S if timeout is None else min(timeout, _LOOK_EVERY_S)
        self._awaits_slot = True
        if all(not channel.active_queues or channel.qos.can_consume() for channel in self._channels):
            self._awaits_slot = False
            super().get(callback, timeout)
            return
        # Another thread or greenlet frees the slot, and nothing comes from Redis then.
        self._slots = self._slots or _Wakeup()
        descriptor = self._slots.fileno()
        self.poller.register(descriptor, READ)
        try:
            super().get(callback, timeout)
        finally:
            self._awaits_slot = False
            with contextlib.suppress(KeyError, ValueError, OSError):
                # Closed meanwhile, or forgotten with all else.
                self.poller.unregister(descriptor)

    def slot_freed(self) -> None:
        """Called from any thread when a delivery is settled, so that a free slot asks for another message."""
        if self._awaits_slot and self._slots is not None:
            self._awaits_slot = False
            self._slots.ring()
        if self._is_full and self._loop is not None:
            # A pool of threads settles beside the loop, which else sleeps until its next timer.
            self._is_full = False
            self._loop.call_soon(_ask_again)

    def handle_event(self, fileno: int, event: int) -> Any:
        """Read what has come."""
        if self._slots is not None and fileno == self._slots.fileno():
            self._slots.drain()
            return None
        return super().handle_event(fileno, event)
