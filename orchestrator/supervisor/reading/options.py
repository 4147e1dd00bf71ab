"""The options of a tree's children: what each may be, and what it is if it is not given."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import isfinite
from typing import Any

from orchestrator.core.supervision_tree.spec import INFINITY, KILL, AutoShutdown, Backoff, OnGiveUp, Restart, Strategy
from orchestrator.supervisor.reading.definition import Kind, ProbeKind

#: Copies of one child, at most.
MAX_REPLICAS = 256

_LAST_PORT = 65535

#: What an id may be. It is part of a path, a node name, and a file name.
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

#: More seconds than anybody waits, fewer than what a clock can be set to.
_MOST_S = 1e9

#: The pools that `celery worker --pool` takes; custom: the class named by $CELERY_CUSTOM_WORKER_POOL.
_POOLS = ("prefork", "eventlet", "gevent", "solo", "processes", "threads", "custom")

#: ``$NAME``, ``${NAME}``, ``${NAME:-default}``, and ``$$``.
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)|\$\$")

#: Returns the value as it is used; raises ``ValueError`` with what is allowed.
Check = Callable[[Any], Any]


def substituted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with ``$NAME``, ``${NAME}`` and ``${NAME:-default}`` replaced by variables; ``$$`` is ``$``."""
    known = os.environ if environment is None else environment

    def value_of(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1] or found[3]) or found[2] or ""

    return VARIABLE.sub(value_of, text)


def unset_variables(value: Any) -> list[str]:
    """Names of variables in a text, or in the texts of a table or a list, that have neither a value nor a default."""
    if isinstance(value, str):
        found = [one for one in VARIABLE.finditer(value) if one[0] != "$$" and one[2] is None]
        return [name for one in found if not os.environ.get(name := one[1] or one[3])]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for part in parts for name in unset_variables(part)]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text that is not empty")
    return substituted(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and "\0" not in one for one in value):
        raise ValueError("a list of texts")
    return tuple(substituted(one) for one in value)


def _command(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not value[0]:
        raise ValueError('a list of texts: the program and its arguments, as ["python", "-m", "shop.web"]')
    return _texts(value)


def _queues(value: Any) -> tuple[str, ...]:
    queues = _texts(value)
    if not queues or any(not queue or "," in queue for queue in queues):
        raise ValueError("a list of names of queues, without commas in them")
    return queues


def _pool(value: Any) -> str:
    pool = _text(value)
    if pool not in _POOLS:
        from orchestrator.core.spelling.nearest import meant

        raise ValueError(f"{' | '.join(_POOLS)}{meant(pool, _POOLS)}")
    return pool


def _id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("up to 64 letters, digits, '_', '.' and '-', the first of them a letter, a digit or '_'")
    return value


def _whole(first: int, last: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, str) and substituted(value).isdecimal():
            value = int(substituted(value))
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
            raise ValueError(f"a whole number from {first} to {last}")
        return value

    return check


def _seconds(least: float, *, above: bool = False) -> Check:
    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value < _MOST_S
        is_number = is_number and isfinite(value)
        if not is_number or value < least or (above and value == least):
            raise ValueError(f"seconds, {'above' if above else 'at least'} {least:g}, below {_MOST_S:.0f}")
        return float(value)

    return check


def _shutdown_s(value: Any) -> float:
    words = {"infinity": INFINITY, "kill": KILL}
    if isinstance(value, str) and value in words:
        return words[value]
    try:
        return float(_seconds(0)(value))
    except ValueError:
        raise ValueError('seconds, "infinity" or "kill"') from None


def _supervisors_shutdown_s(value: Any) -> float:
    if value != "infinity":
        raise ValueError('"infinity": a supervisor takes as long as its children')
    return INFINITY


def _one_of(words: type[StrEnum]) -> Check:
    def check(value: Any) -> StrEnum:
        try:
            return words(value)
        except ValueError:
            from orchestrator.core.spelling.nearest import meant

            raise ValueError(f"{' | '.join(words)}{meant(value, words)}") from None

    return check


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(one, str) and name and "=" not in name and "\0" not in name + one for name, one in value.items()
    ):
        raise ValueError('a table of texts, as { ORCHESTRATOR_APP_VERSION = "2.1" }')
    return {name: substituted(one) for name, one in value.items()}


def _backoff(value: Any) -> Backoff:
    allowed = "{ first_s = seconds, cap_s = seconds, jitter = from 0 to 1 }, with 0 <= first_s <= cap_s"
    names = {"first_s", "cap_s", "jitter"}
    if not isinstance(value, dict) or not set(value) <= names:
        raise ValueError(allowed)
    try:
        backoff = Backoff(**{name: _seconds(0)(one) for name, one in value.items()})
    except ValueError:
        raise ValueError(allowed) from None
    if backoff.first_s > backoff.cap_s or backoff.jitter > 1:
        raise ValueError(allowed)
    return backoff


def _url(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"http://(127\.0\.0\.1|localhost):\d{1,5}(/\S*)?", substituted(value)
    ):
        raise ValueError("http://127.0.0.1:PORT/PATH")
    url = substituted(value)
    if not 1 <= int(url.split(":")[2].partition("/")[0]) <= _LAST_PORT:
        raise ValueError(f"http://127.0.0.1:PORT/PATH, with a port from 1 to {_LAST_PORT}")
    return url


_PORT = _whole(1, _LAST_PORT)

_OF_ALL: dict[str, Check] = {
    "id": _id,
    "kind": _one_of(Kind),
    "restart": _one_of(Restart),
    "significant": _yes_or_no,
}

_OF_PROCESSES: dict[str, Check] = {
    **_OF_ALL,
    "shutdown_s": _shutdown_s,
    "ready": _one_of(ProbeKind),
    "ready_s": _seconds(0, above=True),
    "ready_url": _url,
    "ready_command": _command,
    "backoff": _backoff,
    "stable_s": _seconds(0),
    "replicas": _whole(0, MAX_REPLICAS),
    "environment": _environment,
    "directory": _text,
}

_OF_CELERY: dict[str, Check] = {**_OF_PROCESSES, "app": _text, "log_level": _text, "arguments": _texts}

#: The options of each kind.
OPTIONS: Mapping[Kind, Mapping[str, Check]] = {
    Kind.SUPERVISOR: {
        **_OF_ALL,
        "strategy": _one_of(Strategy),
        "intensity": _whole(0, 1_000_000),
        "period_s": _seconds(0, above=True),
        "auto_shutdown": _one_of(AutoShutdown),
        "on_give_up": _one_of(OnGiveUp),
        "hold_s": _seconds(0, above=True),
        "shutdown_s": _supervisors_shutdown_s,
        "children": lambda value: value,
    },
    Kind.WORKER: {
        **_OF_CELERY,
        "queues": _queues,
        "pool": _pool,
        "concurrency": _whole(1, 100_000),
        "node": _text,
        "banner": _yes_or_no,
    },
    Kind.BEAT: {**_OF_CELERY, "schedule": _text, "banner": _yes_or_no},
    Kind.FLOWER: {**_OF_CELERY, "port": _PORT},
    Kind.REDIS: {**_OF_PROCESSES, "port": _PORT, "dir": _text, "appendonly": _yes_or_no},
    Kind.PROCESS: {**_OF_PROCESSES, "command": _command, "port": _PORT},
}

#: What each kind must have.
REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    Kind.SUPERVISOR: (),
    Kind.WORKER: ("app",),
    Kind.BEAT: ("app",),
    Kind.FLOWER: ("app",),
    Kind.REDIS: ("port",),
    Kind.PROCESS: ("command",),
}
