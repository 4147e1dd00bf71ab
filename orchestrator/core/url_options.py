"""The query of a broker URL: which options it may have, and which values."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orchestrator.core.nearest import meant

_CERT_REQS: Final = ("CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none")

#: Only what looks like the name of an option is repeated in an error: all else may be part of a password.
_NAME: Final = re.compile(r"[a-z][a-z_]{0,40}")


def _is_seconds(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and number >= 0


def _any_text(value: str) -> bool:
    return bool(value)


#: By option, whether a value is allowed, and what is.
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

#: Where what is often written into the query belongs.
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
    """What is wrong with a broker URL's query; empty if nothing is. Secrets are not repeated."""
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
            return f"option {name} is there {times} times; allowed: once"
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
