"""Finds mistakes in an agent's class that Python accepts: a misspelt setting, a wrong annotation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, Final, get_args, get_type_hints

from orchestrator.agents.hooks import OF_SINGLETONS, Hook
from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.concurrency import Concurrency
from orchestrator.core.admission.flow_policy import Breaker, Mailbox
from orchestrator.core.errors import InvalidDeclaration
from orchestrator.core.policies.policy import Retry
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.nearest import nearest

#: Types of values that make an attribute look like a setting.
_NUMBERS: Final = (int, float, timedelta, str)
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "name": (str,),
    "retry": (Retry, dict, *_NUMBERS),
    "on_error": (str, Enum),
    "timeout_s": _NUMBERS,
    "deadline_s": _NUMBERS,
    "expires_s": _NUMBERS,
    "dead_letter_expired": (bool, int, str),
    "priority": (int, float, str),
    "when_down": (str, Enum),
    "when_open": (str, Enum),
    "mailbox": (Mailbox, dict, int),
    "breaker": (Breaker, dict, int),
    "bulkhead": (Bulkhead, dict, int),
    "concurrency": (Concurrency, dict, int),
    "capabilities": (str, set, frozenset, list, tuple),
    "singleton": (bool, int, str),
}

#: Names of the settings in other libraries, Celery first.
_ALIASES: Final[Mapping[str, str]] = {
    "retries": "retry",
    "max_retries": "retry",
    "retry_policy": "retry",
    "retry_backoff": "retry",
    "retry_delay": "retry",
    "default_retry_delay": "retry",
    "backoff": "retry",
    "time_limit": "timeout_s",
    "soft_time_limit": "timeout_s",
    "timeout": "timeout_s",
    "deadline": "deadline_s",
    "expires": "expires_s",
    "ttl": "expires_s",
    "mailbox_size": "mailbox",
    "circuit_breaker": "breaker",
    "capability": "capabilities",
}

#: Settings of Celery and others that an agent does not have, each with what there is instead.
_ELSEWHERE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("queue", "queues", "routing_key", "exchange"), "an agent's name is its queue"),
    "rate_limit": "none; concurrency = Concurrency(n) limits how many messages run at a time",
    **dict.fromkeys(("max_concurrency", "worker_concurrency"), "concurrency = Concurrency(n)"),
    "acks_late": "none; a message is always acknowledged after its handler",
    "reject_on_worker_lost": "none; a message of a dead worker is always requeued",
    **dict.fromkeys(
        ("prefetch", "prefetch_count", "prefetch_multiplier"),
        "none; a worker holds as many messages as it has slots (worker_prefetch_multiplier)",
    ),
    **dict.fromkeys(("autoretry_for", "dont_autoretry_for"), "retry = Retry(on=…, never=…)"),
    "serializer": "none; messages are JSON",
    "ignore_result": "none; a send has track=False",
}

#: Types of values of such settings.
_PLAIN: Final = (*_NUMBERS, bool, list, tuple, set, frozenset, dict)

#: What no message and no vote is, as annotations write it.
_BUILTIN: Final = frozenset({"bool", "None", "int", "float", "str", "dict", "list"})

_LIKENESS: Final = 0.75

#: Where a name in another style has a capital letter: `maxRetries`.
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")

#: Characters of a name from which on two swapped letters leave a likeness of 0.9: `on_elected` is no `on_rejected`.
_LONG: Final = 9


def mistaken_settings(base: type, cls: type) -> Iterator[str]:
    """Attributes that look like a misspelt setting of an agent, each with the likeliest setting.

    An attribute whose name begins with an underscore is never taken for one.
    """
    singleton = getattr(cls, "singleton", False)
    hooks = [hook.value for hook in Hook if singleton or hook not in OF_SINGLETONS]
    for owner in cls.__mro__:
        if owner is base or not issubclass(owner, base):
            continue
        for name, value in vars(owner).items():
            if (
                name in _KINDS
                or name in list(Hook)
                or name.startswith("_")
                or isinstance(value, property)
                or (name.isupper() and name.lower() not in _KINDS)
            ):
                continue
            plain = _CAPITAL.sub("_", name).lower()
            if callable(value) and not isinstance(value, type):
                if meant := nearest(plain, hooks, likeness=0.85 if len(plain) < _LONG else 0.9):
                    yield f"{cls.__qualname__}.{name}: never called; did you mean {meant!r}?"
                continue
            if name != name.lower():
                # `Retry` for `retry`. A class under such a name is one of the agent's own.
                setting = _ALIASES.get(plain) or nearest(name, _KINDS, likeness=_LIKENESS)
                if setting and not callable(value):
                    yield _no_setting(cls, name, value, setting)
                continue
            if name in _ELSEWHERE and isinstance(value, _PLAIN):
                yield (
                    f"{cls.__qualname__}.{name}={masked_repr(value)}: no such setting; allowed: {_ELSEWHERE[name]} "
                    f"(an attribute of your own: _{name})"
                )
                continue
            setting = _ALIASES.get(name) or nearest(name, _KINDS, likeness=_LIKENESS)
            if setting and isinstance(value, _KINDS[setting]):
                yield _no_setting(cls, name, value, setting)


def _no_setting(cls: type, name: str, value: object, setting: str) -> str:
    return (
        f"{cls.__qualname__}.{name}={masked_repr(value)}: no such setting; did you mean {setting!r}? "
        f"(an attribute of your own: _{name})"
    )


def called_method(cls: type, name: Hook, *, may_be_none: bool = False) -> Any:
    """The method of an agent that is called by this name; ``None`` if it may have none, and has none.

    Raises:
        InvalidDeclaration: it is something that cannot be called.
    """
    method = getattr(cls, name, None)
    if not callable(method) and not (may_be_none and method is None):
        none = ", or None" if may_be_none else ""
        raise InvalidDeclaration(f"{cls.__qualname__}.{name}={masked_repr(method)}; allowed: a method{none}")
    return method


def mistaken_message(method: Callable[..., Any], message: type[Any], handled: Iterable[str]) -> str:
    """The annotation of a handler's first parameter if no such message fits it; else empty."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return ""
    first = parameters[0]
    try:
        hint = get_type_hints(method).get(first.name)
    except Exception:  # noqa: BLE001 - names of a function's own scope, or of imports for type checkers alone
        written = str(first.annotation).strip("\"'").rpartition(".")[2]
        return written if written != message.__name__ and written in set(handled) else ""
    allowed = get_args(hint) or (hint,)
    if Any not in allowed and all(isinstance(kind, type) and not _may_be(message, kind) for kind in allowed):
        return getattr(hint, "__name__", str(hint))
    return ""


def mistaken_return(method: Callable[..., Any], returned: type[Any]) -> str:
    """The annotation of what a method returns, if it cannot be ``returned``; else empty."""
    try:
        hint = get_type_hints(method).get("return", Any)
    except Exception:  # noqa: BLE001 - names of a function's own scope, or of imports for type checkers alone
        written = str(inspect.signature(method).return_annotation).strip("\"'")
        return written if written in _BUILTIN else ""
    allowed = get_args(hint) or (hint,)
    if Any in allowed or not all(isinstance(kind, type) and not _may_be(returned, kind) for kind in allowed):
        return ""
    return getattr(hint, "__name__", str(hint))


def _may_be(message: type[Any], kind: type) -> bool:
    try:
        return issubclass(message, kind)
    except TypeError:
        # A protocol that does not support `issubclass`.
        return True
