"""Write the embedded server's redis.conf."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.embedded.errors import EmbeddedServerError
from orchestrator.embedded.ports import LOOPBACK

_DEFAULTS = {"save": '""', "appendonly": "no"}

# Set by the server object itself, or at odds with how it watches and reaches the process.
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
    }
)


def render_configuration(port: int, directory: Path, overrides: Mapping[str, str]) -> str:
    """Return a redis.conf for a server on loopback that keeps nothing on disk unless an override says so.

    Override values are written as in redis.conf: several words stay several words, and an empty string
    stands for `""`.

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
    return "".join(f"{name} {value}\n" for name, value in directives.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
