"""Write the embedded server's redis.conf."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.embedded.port_taken import EmbeddedServerError
from orchestrator.embedded.ports import LOOPBACK

_DEFAULTS = {"save": '""', "appendonly": "no"}

# Directives that the server object sets itself, or that would break its supervision of the process.
_RESERVED = frozenset(
    {
        "bind",
        "port",
        "dir",
        "daemonize",
        "include",
        "logfile",
        "pidfile",
        "requirepass",
        "supervised",
        "tls-port",
        "user",
    }
)

#: Commands with which a client can reach the files and the process of the server's owner. A password keeps other users
#: out; without a password the server refuses these commands to every client.
_OF_THE_OWNER = (
    "acl",
    "bgrewriteaof",
    "bgsave",
    "config",
    "debug",
    "failover",
    "migrate",
    "module",
    "replicaof",
    "save",
    "shutdown",
    "slaveof",
)


def render_configuration(port: int, directory: Path, overrides: Mapping[str, str], password: str) -> str:
    """Return a redis.conf for a server on loopback that keeps nothing on disk unless an override says so.

    With an empty password any user of this machine may use the server, and the commands that reach its owner's files
    and process are refused.

    Override values are written as in redis.conf: several words stay several words, and an empty string stands for `""`.

    Raises:
        EmbeddedServerError: an override names a directive that the embedded server sets itself, or would
            break out of its line.
    """
    directives = dict(_DEFAULTS)
    for name, value in overrides.items():
        if name.lower() in _RESERVED:
            raise EmbeddedServerError(f"the embedded server sets {name!r} itself; it cannot be configured")
        if not name.strip() or any(character in name + value for character in "\r\n\0"):
            raise EmbeddedServerError(f"not a Redis directive: {name!r} with the value {value!r}")
        directives[name.lower()] = value or '""'
    directives |= {
        "bind": LOOPBACK,
        "port": str(port),
        "daemonize": "no",
        "dir": _quoted(str(directory)),
    }
    if password:
        directives["requirepass"] = _quoted(password)
    else:
        directives["user"] = f"default on nopass ~* &* +@all {' '.join(f'-{command}' for command in _OF_THE_OWNER)}"
    return "".join(f"{name} {value}\n" for name, value in directives.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
