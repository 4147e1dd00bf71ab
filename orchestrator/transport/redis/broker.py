"""The server that is the broker at present: one answer for all connections of this process, old and new.

Each connection asks when it connects. The server in use is tried first, then the others in the order of their URLs;
the first that answers as a primary is used by all from then on, and connections to any other server are closed. A
process that had to leave the first server goes back once an earlier one is a primary again: all processes of a
deployment so agree on the first primary of the list.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import AuthenticationError, AuthorizationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from orchestrator.core.log import get_logger
from orchestrator.telemetry import emit, events
from orchestrator.transport.redis.dataset import Dataset
from orchestrator.transport.redis.servers import Server, shown

logger = get_logger(__name__)

#: With several servers, each gets this long to accept a connection and to answer its greeting.
DIAL_S = 2.0

#: How often an earlier server is asked whether it is a primary again, and how many times in a row it has to say so.
_RETURN_EVERY_S = 1.0
_RETURN_AFTER = 2

#: Attempts of one connect, if the server in use changes meanwhile.
_ATTEMPTS = 3


class BrokerConnection(Protocol):
    """A connection, as far as this module uses one (see connections.py)."""

    _sock: Any
    #: Where it is connected to; '' before that.
    server: str

    def aim(self, server: Server) -> None: ...
    def address(self) -> str: ...
    def is_primary(self, server: Server) -> bool: ...
    def disconnect(self) -> None: ...


class NoPrimary(RedisConnectionError):
    """The server at the other end is a replica, so it takes no messages."""


class Broker:
    """One broker: its servers, and the one in use. Without servers, connections find theirs (Sentinel)."""

    def __init__(self, name: str, servers: Sequence[Server] = ()) -> None:
        #: What tells this broker from another one; not to be shown, for it may hold passwords.
        self.name = name
        self.servers = tuple(servers)
        #: By key prefix, the data set that this process registered in last.
        self.datasets: dict[str, Dataset] = {}
        #: By key root, the highest number of an incarnation of this process.
        self.last_numbers: dict[str, int] = {}
        self._at = 0
        self._address = ""
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[Any] = weakref.WeakSet()
        self._watching = False
        #: The last error of a probe that was no answer and no outage, so that it is logged once.
        self._probe_error = ""

    def after_fork(self) -> None:
        """In a forked child: the parent's locks, connections and threads are not its own."""
        self._start()

    @property
    def current(self) -> Server | None:
        """The server in use; ``None`` if Sentinel says which one it is."""
        return self.servers[self._at] if self.servers else None

    @property
    def address(self) -> str:
        """The address of the server in use (``host:port``, or a path), as far as it is known."""
        return str(self.current or self._address)

    def connect(self, connection: BrokerConnection, dial: Callable[[], None]) -> None:
        """Connect to the server in use, or to the first other one that answers as a primary.

        Raises:
            redis.exceptions.RedisError: none does.
        """
        if len(self.servers) < 2:
            dial()
            self._connected(connection, connection.address())
            return
        for _ in range(_ATTEMPTS):
            began = self._at
            found = self._find(connection, dial, began)
            if self._use(found, began, connection):
                return
            connection.disconnect()
        raise RedisConnectionError(f"the broker in use keeps changing between {shown(self.servers)}")

    def _find(self, connection: BrokerConnection, dial: Callable[[], None], began: int) -> int:
        failed: list[str] = []
        for index in (began, *(i for i in range(len(self.servers)) if i != began)):
            connection.aim(self.servers[index])
            try:
                dial()
                return index
            except (AuthenticationError, AuthorizationError):
                # A mistake in the URL, not an outage.
                raise
            except (RedisConnectionError, RedisTimeout, OSError) as error:
                connection.disconnect()
                failed.append(f"{self.servers[index]}: {error}")
        raise RedisConnectionError("no server of the broker is available: " + "; ".join(failed))

    def _use(self, index: int, began: int, connection: BrokerConnection) -> bool:
        """Whether the connection may be used: nobody else has found another server meanwhile."""
        with self._lock:
            if self._at not in (index, began):
                return False
            left, self._at = self._at, index
        self._connected(connection, str(self.servers[index]))
        if left != index:
            self._switched(self.servers[left], self.servers[index])
        if index:
            self._watch(connection)
        return True

    def _connected(self, connection: BrokerConnection, address: str) -> None:
        with self._lock:
            connection.server = address
            self._live.add(connection)
            moved, self._address = self._address not in ("", address), address
        if moved:
            self._close(lambda server: server != address)

    def _switched(self, left: Server, used: Server) -> None:
        logger.warning("broker switched to %s from %s", used, left)
        emit(events.BROKER_SWITCHED, broker=str(used), before=str(left))

    def leave(self, address: str) -> None:
        """The server there is no primary any more: no connection of this process goes on with it."""
        self._close(lambda server: server == address)

    def reconnect(self, *, but: Any) -> None:
        """Another server answers where one of the connections (``but``) was opened anew: open the others anew too."""
        self._close(lambda _: True, but)

    def _close(self, is_meant: Callable[[str], bool], but: Any = None) -> None:
        with self._lock:
            meant = [c for c in self._live if c is not but and is_meant(c.server)]
        for connection in meant:
            # The next read or write finds the connection closed and opens another.
            with contextlib.suppress(OSError, AttributeError, ValueError):
                connection._sock.shutdown(socket.SHUT_RDWR)

    # -- going back

    def _watch(self, connection: BrokerConnection) -> None:
        with self._lock:
            if self._watching:
                return
            self._watching = True
        threading.Thread(
            target=self._go_back, args=(connection.is_primary,), name="orchestrator-broker", daemon=True
        ).start()

    def _go_back(self, is_primary: Callable[[Server], bool]) -> None:
        never = threading.Event()
        seen = [0] * len(self.servers)
        while not never.wait(_RETURN_EVERY_S):
            with self._lock:
                at = self._at
                if at == 0:
                    self._watching = False
                    return
            for index in range(at):
                seen[index] = seen[index] + 1 if self._is_primary(is_primary, self.servers[index]) else 0
                if seen[index] >= _RETURN_AFTER:
                    self._return(index, at)
                    break

    def _is_primary(self, is_primary: Callable[[Server], bool], server: Server) -> bool:
        try:
            answer = is_primary(server)
        except Exception as error:  # noqa: BLE001
            # A provider of credentials is the user's, and this thread must outlive its errors.
            if str(error) != self._probe_error:
                self._probe_error = str(error)
                logger.warning(
                    "server %s, which is preferred, does not answer; it is asked again later: %r", server, error
                )
            return False
        self._probe_error = ""
        return answer

    def _return(self, index: int, at: int) -> None:
        with self._lock:
            if self._at != at:
                return
            self._at, self._address = index, str(self.servers[index])
        self._switched(self.servers[at], self.servers[index])
        self._close(lambda server: server != str(self.servers[index]))


class Brokers:
    """The brokers of this process, by their URLs."""

    def __init__(self) -> None:
        self._by_name: dict[str, Broker] = {}

    def get(self, name: str, servers: Sequence[Server] = ()) -> Broker:
        """The broker of that name; made if this process has not met it."""
        return self._by_name.get(name) or self._by_name.setdefault(name, Broker(name, servers))

    def after_fork(self) -> None:
        """In a forked child."""
        for broker in self._by_name.values():
            broker.after_fork()


BROKERS = Brokers()
os.register_at_fork(after_in_child=BROKERS.after_fork)
