"""The channel's connections: where and how it connects, and its own connection for commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from orchestrator.core.checks.broker_url import masked
from orchestrator.core.keys import Keys, levels_of
from orchestrator.transport.older_kombu import KombuChannel
from orchestrator.transport.options import Options
from orchestrator.transport.redis.broken_keys import describe_refusal
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.connections import SocketConnection, TcpConnection, TlsConnection
from orchestrator.transport.redis.inherited_descriptors import INHERITED
from orchestrator.transport.redis.refusals import RefusesForNow, as_unavailable, is_wrong_type
from orchestrator.transport.redis.unix_socket import unix_socket

#: Timeout of Redis' replies where kombu's options set none, so that no wait lasts for ever.
_SOCKET_TIMEOUT_S = 5.0

#: Options that kombu gives every connection, and one over a Unix socket does not take.
_TCP_ONLY = ("host", "port", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")


class ConnectedChannel(KombuChannel):
    """A channel with the transport's options and key names, that connects to the broker's current primary."""

    connection_class: type[Any] = TcpConnection
    connection_class_ssl: type[Any] = TlsConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._commands: CommandConnection | None = None
        transport: Any = args[0] if args else kwargs["connection"]
        client = transport.client
        self.options = Options.from_transport_options(client.transport_options)
        self._unix_socket = unix_socket(client.hostname, client.virtual_host)
        if self._unix_socket is not None:
            self.connection_class = SocketConnection
        with as_unavailable():
            # With its disk full, Redis refuses even a PING.
            super().__init__(*args, **kwargs)
        self.keys = Keys(self.global_keyprefix)
        self.levels = levels_of(self.priority_steps)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if getattr(self.connection, "client", None) is None:
            # kombu has closed this channel, perhaps within a publish that still uses it; it tries again over another.
            raise RedisConnectionError("the channel was closed with its connection")
        params: dict[str, Any] = super()._connparams(asynchronous)
        params["broker"] = self.connection.broker
        for name in ("socket_timeout", "socket_connect_timeout"):
            if params.get(name) is None and (name == "socket_timeout" or "path" not in params):
                # Longer than a gap in the sweeps: a Redis that hangs must be known to have hung before the first
                # heartbeat gives up and closes its connection, which would look like a death.
                params[name] = max(_SOCKET_TIMEOUT_S, 1.2 * self.options.sweep_gap_s)
        if self._unix_socket is not None:
            params["path"] = self._unix_socket.path
            for name in _TCP_ONLY:
                params.pop(name, None)
        return params

    def _prepare_virtual_host(self, vhost: Any) -> Any:
        return self._unix_socket.database if self._unix_socket is not None else super()._prepare_virtual_host(vhost)

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous)
        INHERITED.watch_pool(pool)
        return pool

    @contextmanager
    def waiting_for_keys(self) -> Iterator[None]:
        """Have a key of another type be a server that refuses for now, so that a worker waits until it is moved away.

        Raises:
            RefusesForNow: instead of Redis' error; its text names the key.
        """
        try:
            yield
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise self.named_refusal(error) from error

    def named_refusal(self, error: ResponseError) -> RefusesForNow:
        """A refusal as a connection error. If a key is of another type than it should be, it names the key."""
        url = masked(self.connection.client.as_uri())
        return RefusesForNow(str(describe_refusal(error, self.pool, self.keys, self.levels, url)))

    def own_pool(self) -> Pool:
        """A pool that outlives this channel."""
        pool: Pool = self._get_pool()
        return pool

    @property
    def wire(self) -> CommandConnection:
        """The channel's own connection for publishing and administration."""
        if self._commands is None:
            self._commands = CommandConnection(self.pool)
        return self._commands

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """As kombu's, which makes a client for each command; here all share one."""
        if client is None:
            client = self.__dict__.get("_shared_client")
            if client is None:
                client = self._shared_client = self._create_client()
        with as_unavailable():
            yield client

    def _disconnect_pools(self) -> None:
        self._commands = None
        self.__dict__.pop("_shared_client", None)
        super()._disconnect_pools()
