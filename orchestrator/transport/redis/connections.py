"""redis-py connections that ask the broker where to connect to, and accept a primary only."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final

from redis import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import MasterDownError, NoPermissionError, ReadOnlyError, RedisError, ResponseError
from redis.sentinel import SentinelManagedConnection

from orchestrator.transport.redis.broker import DIAL_S, Broker, NoPrimary
from orchestrator.transport.redis.refusals import RefusesForNow
from orchestrator.transport.redis.servers import Server

#: A refusal by a server that was a primary when the connection was opened; Redis 6.2 quotes it in a script's own.
_DEMOTED: Final = re.compile(r"\b(?:READONLY|MASTERDOWN)\b|\bread only replica\b")

#: A right that the user lacks, as a script's error quotes it; redis-py knows those of commands alone.
_FORBIDDEN: Final = re.compile(
    r"\bNOPERM\b|\bno permissions to\b|\bACL failure\b|can't (?:run this command|access at least one|publish to the)"
)

#: What a connection beside this one takes from it.
_SHARED: Final = ("db", "username", "password", "credential_provider", "protocol", "socket_type", "socket_keepalive")


class FollowsBroker:
    """Mixed into redis-py's connections."""

    #: The same without asking the broker.
    plain: type[Any] = Connection

    def __init__(self, *, broker: Broker, **kwargs: Any) -> None:
        self.broker = broker
        self.server = ""
        self._beside = {name: kwargs[name] for name in kwargs if name in _SHARED or name.startswith("ssl_")}
        super().__init__(**kwargs)

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect; redis-py's only way to open a socket."""
        this: Any = self
        if this._sock:
            return
        dial = super().connect_check_health  # type: ignore[misc]
        if len(self.broker.servers) < 2:
            self.broker.connect(this, lambda: dial(check_health, retry_socket_connect))
            return
        patience = this.socket_timeout, this.socket_connect_timeout
        this.socket_timeout, this.socket_connect_timeout = (min(DIAL_S, s or DIAL_S) for s in patience)
        try:
            self.broker.connect(this, lambda: dial(check_health, retry_socket_connect))
        finally:
            this.socket_timeout, this.socket_connect_timeout = patience
        _take_up_timeout(this)

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Greet the server, and refuse one that is a replica."""
        super().on_connect_check_health(check_health)  # type: ignore[misc]
        if not _is_primary(self):
            raise NoPrimary(f"{self.address()} is a replica; allowed: a primary")

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """The next reply. A server that turns out to be a primary no more is left, by all connections to it."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if not isinstance(error, ReadOnlyError | MasterDownError) and not _DEMOTED.search(str(error)):
                if _FORBIDDEN.search(str(error)) and not isinstance(error, NoPermissionError):
                    raise NoPermissionError(str(error)) from error
                raise
            self.broker.leave(self.server)
            raise RefusesForNow(str(error)) from error

    def aim(self, server: Server) -> None:
        """Say which server to connect to next."""
        this: Any = self
        if server.path:
            this.path = server.path
        else:
            this.host, this.port = server.host, server.port
        if this.credential_provider is None:
            this.username, this.password = server.username, server.password

    def address(self) -> str:
        """The address that it connects to."""
        this: Any = self
        return str(this.path) if hasattr(this, "path") else f"{this.host}:{this.port}"

    def is_primary(self, server: Server) -> bool:
        """Whether another server answers as a primary; asked on a connection of its own."""
        timeouts = {"socket_timeout": DIAL_S, "socket_connect_timeout": DIAL_S}
        if server.path:
            del timeouts["socket_connect_timeout"]
        where = {"path": server.path} if server.path else {"host": server.host, "port": server.port}
        who = (
            {} if "credential_provider" in self._beside else {"username": server.username, "password": server.password}
        )
        connection = self.plain(**{**self._beside, **timeouts, **where, **who})
        try:
            connection.connect()
            return _is_primary(connection)
        except (RedisError, OSError):
            return False
        finally:
            with contextlib.suppress(RedisError, OSError):
                connection.disconnect()


def _take_up_timeout(connection: Any) -> None:
    """Have an open connection wait for replies as long as its ``socket_timeout`` now says."""
    if hasattr(connection, "update_current_socket_timeout"):
        connection.update_current_socket_timeout(-1)
        return
    # redis-py 6.4. Its parser has the timeout of when it was connected, as an attribute or its buffer's.
    if connection._sock is not None:
        connection._sock.settimeout(connection.socket_timeout)
        connection._parser.on_connect(connection)


def _is_primary(connection: Any) -> bool:
    greeting = getattr(connection, "handshake_metadata", None)
    if isinstance(greeting, dict) and (role := greeting.get(b"role", greeting.get("role"))):
        return role not in (b"replica", "replica", b"slave", "slave")
    connection.send_command("ROLE", check_health=False)
    try:
        role = connection.read_response()
    except ResponseError:
        # Not allowed here (ACL), or not known (a compatible server): its refusals of writes have to tell.
        return True
    return role[0] not in (b"slave", "slave")


class TcpConnection(FollowsBroker, Connection):
    """Over TCP."""


class TlsConnection(FollowsBroker, SSLConnection):
    """Over TLS."""

    plain = SSLConnection


class SocketConnection(FollowsBroker, UnixDomainSocketConnection):
    """Over a Unix socket."""

    plain = UnixDomainSocketConnection


class SentinelTcpConnection(SentinelManagedConnection, TcpConnection):
    """Over TCP, to the primary that Sentinel names."""


class SentinelTlsConnection(SentinelManagedConnection, TlsConnection):
    """Over TLS, to the primary that Sentinel names."""
