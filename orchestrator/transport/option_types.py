"""Checks the types of kombu's options for a Redis broker; a wrong type would raise an error deep in redis-py."""

from __future__ import annotations

import inspect
import math
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kombu.transport import redis as kombu_redis
from kombu.utils.imports import symbol_by_name
from redis import SSLConnection

from orchestrator.core.checks.numbers import is_number, is_whole_number
from orchestrator.core.errors import InvalidSettings
from orchestrator.core.secrets.masked_repr import masked, masked_repr
from orchestrator.core.spelling.nearest import meant
from orchestrator.transport.options import Options

_CERT_REQS: Final = ("required", "optional", "none", *ssl.VerifyMode)

#: Names of redis-py's TLS options.
_SSL_NAMES: Final = tuple(name for name in inspect.signature(SSLConnection).parameters if name.startswith("ssl_"))


def _is_number(value: object) -> bool:
    return is_number(value, 0) and math.isfinite(value)


def _is_positive(value: object) -> bool:
    return _is_number(value) and value != 0


def _is_count(value: object) -> bool:
    return is_whole_number(value, 0)


def _are_steps(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(_is_count, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_order(value: object) -> bool:
    return callable(value) or (isinstance(value, str) and ("." in value or value in _ORDERS))


_ORDERS: Final = ("round_robin", "sorted", "priority")

#: Option -> a check of its type, and what is allowed. ``None`` is always allowed: kombu's default.
_KOMBU: Final[dict[str, tuple[Callable[[object], bool], str]]] = {
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), (_is_positive, "seconds above 0")),
    **dict.fromkeys(("health_check_interval", "polling_interval"), (_is_number, "seconds, 0 or more")),
    **dict.fromkeys(("interval_start", "interval_step", "interval_max"), (_is_number, "seconds, 0 or more")),
    **dict.fromkeys(("max_connections", "max_retries", "min_other_sentinels"), (_is_count, "a number, 0 or more")),
    **dict.fromkeys(("socket_keepalive", "retry_on_timeout", "fanout_patterns"), (_is_bool, "true, false")),
    "fanout_prefix": (lambda value: _is_bool(value) or _is_text(value), "true, false, or a prefix"),
    **dict.fromkeys(("client_name", "global_keyprefix", "master_name", "sep"), (_is_text, "a text")),
    **dict.fromkeys(("socket_keepalive_options", "sentinel_kwargs"), (_is_mapping, "a mapping")),
    "priority_steps": (_are_steps, "a list of numbers, 0 or more"),
    "queue_order_strategy": (_is_order, f"{', '.join(_ORDERS)}, or a class or its import path"),
}


#: All options that kombu reads for a Redis broker.
_KOMBU_NAMES: Final = frozenset(
    {
        *kombu_redis.SentinelChannel.from_transport_options,
        *_KOMBU,
        "callback",
        "connect_retries_timeout",
        "errback",
        "reauth_check_interval",
        "retry",
        "retry_on_error",
        "unacked_restore_interval",
    }
)

#: Options of Celery's result backends, which are often written among the broker's.
_OF_RESULTS: Final = ("result_chord_ordered", "retry_policy")

#: Our own option by which a connection, and its clones, know that they had a ``sentinel://`` URL.
FROM_SENTINEL_URL: Final = "from_sentinel_url"


def refuse_bad_options(options: Mapping[str, Any]) -> None:
    """Refuse options of kombu whose values have a wrong type. Unknown options are not refused.

    Raises:
        InvalidSettings: names each option, its value and what is allowed.
    """
    problems = [
        f"broker_transport_options: {masked(f'{name}={masked_repr(options[name])}')}; allowed: {allowed}"
        for name, (is_allowed, allowed) in _KOMBU.items()
        if options.get(name) is not None and not is_allowed(options[name])
    ]
    if problems:
        raise InvalidSettings(problems)


def unknown_options(options: Mapping[Any, Any]) -> list[str]:
    """A line for each option that neither this transport nor kombu knows. Values are not shown: one may be secret."""
    known = (*Options.names(), *_KOMBU_NAMES)
    return [
        f"broker_transport_options: {name!r} is not an option, and has no effect"
        + ("; allowed: in result_backend_transport_options" if name in _OF_RESULTS else meant(name, known))
        for name in options
        if name not in known and name != FROM_SENTINEL_URL
    ]


def refuse_bad_ssl(options: object) -> None:
    """Refuse TLS options of ``broker_use_ssl`` or a ``rediss://`` URL that redis-py cannot use.

    Raises:
        InvalidSettings: names the option and what is allowed.
    """
    if not options:
        return
    if not isinstance(options, Mapping):
        # kombu would connect without TLS.
        raise InvalidSettings(
            [f"broker_use_ssl={masked_repr(options)}: allowed: a mapping, as {{'ssl_cert_reqs': ssl.CERT_REQUIRED}}"]
        )
    unknown = [name for name in options if name not in _SSL_NAMES]
    problems = [f"broker_use_ssl: unknown option {name!r}; allowed: {', '.join(_SSL_NAMES)}" for name in unknown]
    required = options.get("ssl_cert_reqs")
    if required is not None and required not in _CERT_REQS:
        allowed = "required, optional, none, or a constant of ssl.VerifyMode"
        problems.append(f"broker_use_ssl: ssl_cert_reqs={masked_repr(required)}; allowed: {allowed}")
    if problems:
        raise InvalidSettings(problems)


def refuse_bad_provider(provider: object) -> None:
    """Refuse a ``credential_provider`` that cannot be imported.

    Raises:
        InvalidSettings: it cannot.
    """
    if isinstance(provider, str):
        try:
            if callable(symbol_by_name(provider)):
                return
            why = "not a class"
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            why = str(error)
        allowed = "the import path of a redis.CredentialProvider"
        raise InvalidSettings([f"broker_url: credential_provider={masked_repr(provider)}: {why}; allowed: {allowed}"])
