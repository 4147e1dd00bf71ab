"""Choose a loopback port for a server."""

import errno
import random
import socket
from pathlib import Path

from orchestrator.embedded.port_taken import EmbeddedServerError

LOOPBACK = "127.0.0.1"

_LOWEST_PORT = 20_000
_USUAL_EPHEMERAL_START = 32_768
_TRIES = 200


def free_port() -> int:
    """Return a loopback port that was free just now. Another process may take it before the server binds it.

    The port lies below the range from which the kernel takes ports for outgoing connections: a client that
    keeps reconnecting to a server that is down would sooner or later be given that server's own port, connect
    to itself, and keep the server from coming back.

    Raises:
        EmbeddedServerError: no free port was found.
    """
    below = _ephemeral_start()
    if below <= _LOWEST_PORT:
        return _any_port()
    for _ in range(_TRIES):
        port = random.randrange(_LOWEST_PORT, below)
        if _can_bind(port):
            return port
    raise EmbeddedServerError(f"no free port on {LOOPBACK} between {_LOWEST_PORT} and {below - 1}")


def _ephemeral_start() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return _USUAL_EPHEMERAL_START


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise EmbeddedServerError(f"cannot bind to {LOOPBACK}: {error}") from error
    return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
