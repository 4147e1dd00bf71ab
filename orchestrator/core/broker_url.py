"""What a broker URL must look like to be served by this library's transport, and how it is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

#: URL schemes that the transport serves.
SCHEMES: Final = ("redis", "rediss", "sentinel")

ALLOWED: Final = f"allowed: a URL that starts with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"

#: kombu's own Redis URLs for which it ignores ``broker_transport``.
_KOMBU_ONLY: Final = {
    "redis+socket": "kombu uses its own transport there; allowed: redis:///run/redis.sock (or …/DB)",
    "rediss+socket": "kombu uses its own transport there; allowed: redis:///run/redis.sock (or …/DB)",
    "redis+cluster": f"Redis Cluster is not supported; {ALLOWED}",
    "rediss+cluster": f"Redis Cluster is not supported; {ALLOWED}",
}


def servers(urls: str | Sequence[str]) -> list[str]:
    """The URLs of a broker that may have several: a list, or one text with semicolons."""
    return [server for url in ([urls] if isinstance(urls, str) else urls) for server in url.split(";")]


def scheme_of(url: str) -> str:
    """The part before ``://``; empty without it."""
    return url.partition("://")[0] if "://" in url else ""


def is_served(urls: str | Sequence[str]) -> bool:
    """Whether the transport serves these URLs; the first one decides, as in kombu."""
    return scheme_of(servers(urls)[0]) in SCHEMES


def problems_of(urls: str | Sequence[str]) -> list[str]:
    """What keeps a Redis URL from being used, one line for each bad server; other brokers' URLs have none."""
    return [f"broker_url={shown(server)}: {why}" for server in servers(urls) if (why := problem_of(server))]


def problem_of(server: str) -> str:
    """Why one server's Redis URL cannot be used; empty if it can, or is another broker's."""
    scheme = scheme_of(server)
    if scheme in _KOMBU_ONLY:
        return _KOMBU_ONLY[scheme]
    if scheme not in SCHEMES:
        return ""
    return "" if _well_formed(server) else "allowed: a port from 1 to 65535, and a database number after the slash"


def _well_formed(server: str) -> bool:
    try:
        parts = urlsplit(server)
        # Without a host, the path may be that of a Unix socket.
        return parts.port != 0 and (not parts.hostname or (parts.path.strip("/") or "0").isdecimal())
    except ValueError:
        return False


def shown(url: object) -> str:
    """The URL without its password, in quotes."""
    shape = re.fullmatch(r"([\w+.-]+://)(?:([^:@/]*)(:.*)?@)?([^@]*)", url) if isinstance(url, str) else None
    if shape is None:
        return "(not shown)"
    scheme, user, password, rest = shape.groups()
    who = "" if user is None else f"{user}:**@" if password else f"{user}@"
    return f"'{scheme}{who}{rest}'"
