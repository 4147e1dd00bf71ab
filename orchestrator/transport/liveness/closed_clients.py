"""Finds closed connections in Redis' list of its clients, as evidence of a death."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import ResponseError

from orchestrator.core.log import get_logger
from orchestrator.transport.redis.command_connection import CommandConnection

logger = get_logger(__name__)


def closed_clients(commands: CommandConnection, clients: Sequence[bytes]) -> set[bytes]:
    """The connections (``id name server``) that Redis no longer has.

    Ids start anew with a server. An incarnation that has sent no heartbeat since a restart or a failover may be about
    to connect, so none of its connections is returned, and only its lease counts. The same holds where ``CLIENT LIST``
    is not allowed (an ACL, a managed Redis).

    Raises:
        redis.exceptions.RedisError: Redis is unreachable.
    """
    try:
        server = commands.server().encode()
        parts = {client: client.split(b" ") for client in clients if b" " in client}
        asked = {client: known[:2] for client, known in parts.items() if known[2:] in ([], [server])}
        if not asked:
            return set()
        listed = commands.call("CLIENT", "LIST", "ID", *(ident for ident, _ in asked.values()))
        if commands.server().encode() != server:
            return set()
    except ResponseError:
        logger.debug("CLIENT LIST refused", exc_info=True)
        return set()
    if isinstance(listed, str):
        listed = listed.encode()
    alive = set()
    for line in listed.splitlines():
        pairs = dict(part.split(b"=", 1) for part in line.split() if b"=" in part)
        alive.add((pairs.get(b"id"), pairs.get(b"name")))
    return {client for client, (ident, name) in asked.items() if (ident, name) not in alive}


def is_closed(commands: CommandConnection, client: bytes) -> bool:
    """Whether Redis no longer has this connection (``id server``, of :meth:`CommandConnection.client`).

    ``False`` too if that cannot be found out.

    Raises:
        redis.exceptions.RedisError: Redis is unreachable.
    """
    number, _, server = client.partition(b" ")
    if not server or server != commands.server().encode():
        return False
    try:
        return not commands.call("CLIENT", "LIST", "ID", number).strip()
    except ResponseError:
        logger.debug("CLIENT LIST refused", exc_info=True)
        return False
