"""Broker URLs that name a Unix socket: ``redis:///run/redis.sock``, or ``redis:///run/redis.sock/3`` for database 3.

kombu's own form, ``redis+socket://``, also chooses kombu's transport, whatever ``broker_transport`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """The path of a server on the same machine, and the number of its database."""

    path: str
    database: int = 0


def unix_socket(hostname: str | None, virtual_host: Any) -> UnixSocket | None:
    """The socket that a parsed URL names: it has no host, and its path is more than a database's number."""
    path = str(virtual_host or "").strip("/")
    if hostname or not path or path.isdigit():
        return None
    directory, _, last = path.rpartition("/")
    if directory and last.isdigit():
        return UnixSocket(f"/{directory}", int(last))
    return UnixSocket(f"/{path}")
