"""Checks a broker URL for this library's transport, and masks its password."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from orchestrator.core.checks.text import is_text, printable
from orchestrator.core.spelling.url_options import query_problem

#: URL schemes that the transport serves.
SCHEMES: Final = ("redis", "rediss", "sentinel")

ALLOWED: Final = f"allowed: a URL that starts with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"

ENCODED: Final = "allowed: %2F %3F %23 %3B %40 instead of / ? # ; @ in a user, a password or a query"

#: Between two URLs. A semicolon that no URL follows is part of a password that should have been encoded.
_BETWEEN: Final = re.compile(r";(?=[\w+.-]+://)")

#: At the beginning of what follows ``://``: no host, or one that a port may follow.
_HOST: Final = re.compile(r"(?:(?:\[[^\]/?#]*\]|[^:/?#\[\]]+)(?::\d{1,5})?)?(?=[/?#]|$)")

#: kombu's own Redis URLs for which it ignores ``broker_transport``.
_KOMBU_ONLY: Final = {
    "redis+socket": "kombu uses its own transport there; allowed: redis:///run/redis.sock (or …/DB)",
    "rediss+socket": "kombu uses its own transport there; allowed: redis:///run/redis.sock (or …/DB)",
    "redis+cluster": f"Redis Cluster is not supported; {ALLOWED}",
    "rediss+cluster": f"Redis Cluster is not supported; {ALLOWED}",
}


def servers(urls: str | Sequence[str]) -> list[str]:
    """The URLs of a broker that may have several: a list, or one text with a semicolon between each two."""
    return [server for url in ([urls] if isinstance(urls, str) else urls) for server in _BETWEEN.split(url)]


def scheme_of(url: str) -> str:
    """The part before ``://``; empty without it."""
    return url.partition("://")[0] if "://" in url else ""


def is_served(urls: str | Sequence[str]) -> bool:
    """Whether the transport serves these URLs; the first one decides, as in kombu."""
    return scheme_of(servers(urls)[0]) in SCHEMES


def problems_of(urls: str | Sequence[str]) -> list[str]:
    """Problems of a Redis URL, one line for each bad server; none for other brokers' URLs."""
    return [f"broker_url={quoted(server)}: {why}" for server in servers(urls) if (why := problem_of(server))]


def problem_of(server: str) -> str:
    """The problem of one server's Redis URL; empty if it has none, or is another broker's."""
    scheme = scheme_of(server)
    if scheme in _KOMBU_ONLY:
        return _KOMBU_ONLY[scheme]
    if scheme not in SCHEMES:
        return ""
    if not is_text(server):
        return "allowed: text that can be written as UTF-8; " + ENCODED.removeprefix("allowed: ")
    if not _is_encoded(server):
        return ENCODED
    if not _well_formed(server):
        return "allowed: a port from 1 to 65535, and a database number after the slash"
    return query_problem(server)


def _is_encoded(server: str) -> bool:
    host, slash, rest = re.split("([/?#]|$)", server.partition("://")[2], maxsplit=1)
    # Without a host, the path is that of a Unix socket. After a host, an @ is the end of a password.
    return ";" not in server and ("@" not in rest or (not host and slash == "/"))


def _well_formed(server: str) -> bool:
    try:
        parts = urlsplit(server)
        # Without a host, the path may be that of a Unix socket.
        return parts.port != 0 and (not parts.hostname or (parts.path.strip("/") or "0").isdecimal())
    except ValueError:
        return False


def masked(urls: str) -> str:
    """One URL, or several with semicolons, without passwords, however badly they are written.

    A password may hold any character, so the text before the last ``@`` is taken for a user and a password. Without an
    ``@``, the text after the first colon is shown only if it is the port of a host. A query is never shown.
    """
    return ";".join(_masked(url) for url in _BETWEEN.split(urls))


def _masked(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if not found or not re.fullmatch(r"[\w+.-]+", scheme):
        return "(not shown)"
    who, at, where = rest.rpartition("@")
    where = _without_query(where)
    user, colon, _ = (who if at else rest).partition(":")
    if (not at and _HOST.match(rest)) or (at and not colon and user.startswith("/")):
        return f"{scheme}://{who}{at}{where}"
    if re.search("[/?#;]", user):
        # One of these in a user means a password whose colon is missing or in the wrong place.
        user, colon = "", ":"
    return f"{scheme}://{user}{':**' if colon else ''}{at}{where}" if at else f"{scheme}://{user}:**"


def _without_query(text: str) -> str:
    before, mark, _ = text.partition("?")
    return f"{before}{mark}…" if mark else before


def quoted(url: object) -> str:
    """A URL, or several, in quotes and without passwords."""
    text = masked(url) if isinstance(url, str) else "(not shown)"
    return text if text == "(not shown)" else f"'{printable(text)}'"
