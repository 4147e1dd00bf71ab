"""A task's arguments as logs, events and Flower may show them: the values of hidden fields are masked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from celery.utils.saferepr import saferepr

from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import HIDDEN, redact


def masked_args(task: Any, args: Any, hidden: Iterable[str]) -> Any:
    """Positional arguments as JSON data, with those masked whose parameter, or whose field at any depth, is hidden.

    ``task`` is the Celery task that they are for, or ``None`` where it is not known; then parameters have no names.
    """
    if isinstance(args, str) or not isinstance(args, Sequence):
        return args
    names = tuple(hidden)
    masked = list(redact(list(args), names))
    for position in () if task is None else _hidden_positions(task, names):
        if position < len(masked):
            masked[position] = HIDDEN
    return tuple(masked) if isinstance(args, tuple) else masked


def masked_kwargs(kwargs: Any, hidden: Iterable[str]) -> Any:
    """Keyword arguments as JSON data, with the values of hidden names masked at any depth."""
    return redact(dict(kwargs), hidden) if isinstance(kwargs, Mapping) else kwargs


def masked_text(text: str, hidden: Iterable[str]) -> str:
    """A text of arguments (or any other) in which ``name=value`` and ``'name': value`` are masked."""
    names = _names_in(text, hidden)
    return str(mask(text, names)) if names else text


def args_text(task: Any, args: Any, hidden: Iterable[str], size: int, levels: int) -> str:
    """Celery's ``argsrepr``, at most ``size`` characters and ``levels`` deep, without what is hidden."""
    names = tuple(hidden)
    text = str(saferepr(args, size, maxlevels=levels))
    if not _names_in(text, names) and not (task is not None and _hidden_positions(task, names)):
        return text
    return masked_text(saferepr(masked_args(task, args, names), size, maxlevels=levels), names)


def kwargs_text(kwargs: Any, hidden: Iterable[str], size: int, levels: int) -> str:
    """Celery's ``kwargsrepr``, within the same bounds and without what is hidden."""
    names = tuple(hidden)
    text = str(saferepr(kwargs, size, maxlevels=levels))
    # A name comes before its value, so a text without the names shows no value, though it may have been cut.
    if not _names_in(text, names):
        return text
    return masked_text(saferepr(masked_kwargs(kwargs, names), size, maxlevels=levels), names)


def _names_in(text: str, names: Iterable[str]) -> list[str]:
    lowered = text.lower()
    return [name for name in names if name.lower() in lowered]


def _hidden_positions(task: Any, names: tuple[str, ...]) -> list[int]:
    lowered = {name.lower() for name in names}
    parameters = _parameters(getattr(task, "__handle__", task.run))
    return [position for position, name in enumerate(parameters) if name.lower() in lowered]


@lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's positional parameters; none where they cannot be known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in positional)
