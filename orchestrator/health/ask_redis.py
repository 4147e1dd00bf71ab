"""A few Redis commands over a bare socket, because importing a client would take longer than the whole probe may."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from orchestrator.core.checks.broker_url import masked, problem_of, quoted, scheme_of, servers
from orchestrator.core.keys import Keys


class BadAddress(Exception):
    """The probe cannot use the broker's URL."""


def last_sweep(timeout_s: float) -> tuple[int | None, str, int]:
    """Time of the last sweep, its sweeper, and the current time; in ms by Redis' clock.

    Raises:
        BadAddress: the broker's URL is not redis:// or rediss://.
        OSError: Redis does not answer, or refuses.
    """
    url, prefix = _broker()
    (seconds, micros), (at_ms, by) = _ask(
        url, [("TIME",), ("HMGET", Keys(prefix).sweep, "at_ms", "by")], timeout_s
    )  # fmt: skip
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    return (None if at_ms is None else int(float(at_ms))), (by or b"").decode(), now_ms


@dataclass(frozen=True, slots=True)
class OverdueSchedules:
    """The schedules of a Redis, as far as a probe asks."""

    now_ms: int
    #: The one that has been due for longest, and since when; ``None`` if nothing is scheduled.
    first: tuple[str, int] | None
    number: int
    broken: int
    #: Who schedules, and when it last did; ``None`` if nobody ever has.
    by: str
    at_ms: int | None


def overdue_schedules(timeout_s: float) -> OverdueSchedules:
    """The due schedules, and the scheduler. Raises as :func:`last_sweep`."""
    url, prefix = _broker()
    keys = Keys(prefix)
    commands: list[tuple[str, ...]] = [
        ("TIME",),
        ("ZRANGE", keys.schedules_due, "0", "0", "WITHSCORES"),
        ("ZRANGE", keys.schedules_bound, "0", "0", "WITHSCORES"),
        ("HLEN", keys.schedules),
        ("HLEN", keys.schedules_broken),
        ("HMGET", keys.scheduler, "by", "at_ms"),
    ]
    (seconds, micros), due, bound, number, broken, (by, at_ms) = _ask(url, commands, timeout_s)
    firsts = [(int(float(pair[1])), pair[0].decode("utf-8", "replace")) for pair in (due, bound) if pair]
    first = min(firsts, default=None)
    return OverdueSchedules(
        int(seconds) * 1000 + int(micros) // 1000,
        None if first is None else (first[1], first[0]),
        int(number),
        int(broken),
        (by or b"").decode("utf-8", "replace"),
        None if at_ms is None else int(float(at_ms)),
    )


def late_s() -> float:
    """The seconds by which a schedule may be late.

    Raises:
        BadAddress: the setting is no number.
    """
    value = os.environ.get("ORCHESTRATOR_SCHEDULER_LATE_S", _profile().get("scheduler_late_s", 60.0))
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadAddress(f"scheduler_late_s={value!r}; allowed: seconds") from None


def asked() -> str:
    """The Redis server and key prefix of the probe, without passwords."""
    url, prefix = _broker()
    return f"{masked(url)} (keys {prefix}…)" if prefix else masked(url)


def _profile() -> dict[str, Any]:
    path = os.environ.get("ORCHESTRATOR_CONFIG")
    if not path:
        return {}
    import tomllib

    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadAddress(f"profile {path}: {error}") from None


def _broker() -> tuple[str, str]:
    profile = _profile()
    url = os.environ.get("ORCHESTRATOR_BROKER_URL") or profile.get("broker_url") or "redis://127.0.0.1:6379/0"
    return str(url), os.environ.get("ORCHESTRATOR_KEY_PREFIX", profile.get("key_prefix", ""))


def where_from() -> str:
    """To be appended to an error: that nobody has said which Redis to ask; empty if somebody has."""
    if os.environ.get("ORCHESTRATOR_BROKER_URL") or _profile().get("broker_url"):
        return ""
    return "; ORCHESTRATOR_BROKER_URL is not set: set it to the app's broker_url"


def _ask(urls: str, commands: list[tuple[str, ...]], timeout_s: float) -> list[Any]:
    """The reply of the first server that is a primary; a single server is asked whatever its role."""
    *others, last = servers(urls)
    for url in others:
        try:
            role, *answers = _ask_one(url, [("ROLE",), *commands], timeout_s)
        except OSError:
            continue
        if role[0] != b"slave":
            return answers
    return _ask_one(last, commands, timeout_s)


def _ask_one(url: str, commands: list[tuple[str, ...]], timeout_s: float) -> list[Any]:
    if scheme_of(url) not in ("redis", "rediss"):
        raise BadAddress(f"broker_url={quoted(url)} cannot be asked; allowed: redis://, rediss://")
    if why := problem_of(url):
        raise BadAddress(f"broker_url={quoted(url)}: {why}")
    parts = urlsplit(url)
    address = parts.hostname or "127.0.0.1", parts.port or 6379
    greetings: list[tuple[str, ...]] = []
    if parts.password:
        greetings.append(("AUTH", *([unquote(parts.username)] if parts.username else []), unquote(parts.password)))
    if database := parts.path.strip("/"):
        greetings.append(("SELECT", database))
    with socket.create_connection(address, timeout_s) as plain, _secured(plain, parts) as connection:
        connection.sendall(b"".join(_packed(command) for command in (*greetings, *commands)))
        with connection.makefile("rb") as answers:
            return [_read(answers) for _ in (*greetings, *commands)][len(greetings) :]


def _secured(plain: socket.socket, parts: SplitResult) -> socket.socket:
    if parts.scheme == "redis":
        return plain
    import ssl

    options = parse_qs(parts.query)
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs", [None])[0])
    if options.get("ssl_cert_reqs", ["required"])[0].lower() in ("none", "cert_none"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=parts.hostname)


def _packed(command: tuple[str, ...]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _read(answers: BinaryIO) -> Any:
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise ConnectionError(f"Redis refused: {rest.decode(errors='replace')}")
    if kind == b"*":
        return [_read(answers) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else answers.read(int(rest) + 2)[:-2]
    return rest
