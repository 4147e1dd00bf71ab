"""Checks the options in a broker URL's query."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orchestrator.core.spelling.nearest import meant

_CERT_REQS: Final = ("CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none")

#: An error repeats a text only if it has the form of an option's name: other text may be part of a password.
_NAME: Final = re.compile(r"[a-z][a-z_]{0,40}")


def _is_seconds(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and number >= 0


def _any_text(value: str) -> bool:
    return bool(value)


#: By option, the check of its value, and what is allowed.
_OPTIONS: Final[dict[str, tuple[Callable[[str], bool], str]]] = {
    "ssl_cert_reqs": (_CERT_REQS.__contains__, ", ".join(_CERT_REQS)),
    "ssl_check_hostname": (lambda value: value.lower() in ("true", "false"), "true, false"),
    **dict.fromkeys(
        ("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_certfile", "ssl_ciphers", "ssl_keyfile", "ssl_password"),
        (_any_text, "a text"),
    ),
    "credential_provider": (_any_text, "the import path of a redis.CredentialProvider"),
    "connect_timeout": (_is_seconds, "seconds, 0 or more"),
    "heartbeat": (_is_seconds, "seconds, 0 or more"),
}

#: The right place of options that are often written into the query.
_ELSEWHERE: Final = {
    "password": "redis://USER:PASSWORD@HOST",
    "username": "redis://USER:PASSWORD@HOST",
    "userid": "redis://USER:PASSWORD@HOST",
    "db": "redis://HOST/DB",
    "virtual_host": "redis://HOST/DB, or redis:///run/redis.sock/DB",
    "hostname": "redis://HOST",
    "host": "redis://HOST",
    "port": "redis://HOST:PORT",
    "ssl": "rediss://",
    "transport": "rediss:// or another scheme",
}


def query_problem(url: str) -> str:
    """The problem of a broker URL's query; empty if it has none. Secrets are not repeated."""
    try:
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return "allowed: a query such as ?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/etc/ca.pem"
    for name, value in pairs:
        if name not in _OPTIONS:
            return _unknown(name, has_value=bool(value))
        is_allowed, allowed = _OPTIONS[name]
        if not is_allowed(value):
            return f"option {name} has a value that is not allowed; allowed: {allowed}"
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            return f"option {name} occurs {times} times; allowed: once"
    of_tls = next((name for name, _ in pairs if name.startswith("ssl_")), "")
    if of_tls and url.startswith("redis://"):
        # With it kombu speaks TLS, whatever the scheme and the option's value.
        return f"option {of_tls} is for TLS; allowed: with rediss://, or without the ssl_ options"
    return ""


def _unknown(name: str, *, has_value: bool) -> str:
    known = ", ".join(_OPTIONS)
    if not has_value or not _NAME.fullmatch(name):
        return f"unknown option in its query; allowed: {known}"
    if name in _ELSEWHERE:
        return f"{name} is no option of its query; allowed: {_ELSEWHERE[name]}"
    return (
        f"unknown option {name}; allowed: {known}{meant(name, _OPTIONS)}, "
        f"and in broker_transport_options those of the transport, in broker_use_ssl all of redis-py's ssl_ options"
    )
