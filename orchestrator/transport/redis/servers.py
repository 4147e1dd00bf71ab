"""The servers that a broker's URLs name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kombu.utils.url import parse_url

from orchestrator.core.errors import InvalidSettings
from orchestrator.transport.redis.unix_socket import unix_socket


@dataclass(frozen=True, slots=True)
class Server:
    """One Redis server: a host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def servers_of(client: Any, default_port: int) -> tuple[Server, ...]:
    """The servers behind a kombu connection, in the order of its URLs.

    Raises:
        InvalidSettings: several URLs differ in more than the server and its user.
    """
    if len(client.alt) < 2:
        return (
            _server(client.hostname, client.port, client.userid, client.password, client.virtual_host, default_port),
        )
    parsed = [parse_url(url) for url in client.alt]
    for name, allowed in (("transport", "one scheme"), ("virtual_host", "one database")):
        if name == "virtual_host" and any(_is_socket(parts) for parts in parsed):
            continue
        values = dict.fromkeys(_comparable(name, parts[name]) for parts in parsed)
        if len(values) > 1:
            raise InvalidSettings([f"broker_url names {', '.join(values)}; allowed: {allowed} in all of its URLs"])
    if len({_is_socket(parts) for parts in parsed}) > 1:
        raise InvalidSettings(["broker_url names hosts and Unix sockets; allowed: one kind in all of its URLs"])
    return tuple(
        _server(p["hostname"], p["port"], p["userid"], p["password"], p["virtual_host"], default_port) for p in parsed
    )


def _comparable(name: str, value: Any) -> str:
    return str(value or "0").strip("/") or "0" if name == "virtual_host" else f"{value}://"


def _is_socket(parts: dict[str, Any]) -> bool:
    return unix_socket(parts["hostname"], parts["virtual_host"]) is not None


def _server(
    host: str | None, port: int | None, user: str | None, password: str | None, virtual_host: Any, default_port: int
) -> Server:
    socket = unix_socket(host, virtual_host)
    if socket is not None:
        return Server(path=socket.path, username=user, password=password)
    return Server(host or "127.0.0.1", port or default_port, "", user, password)


def shown(servers: Sequence[Server]) -> str:
    """The servers' addresses in one text, with commas between them."""
    return ", ".join(map(str, servers))
