"""Errors for misspelt options, which name the nearest allowed option.

For policies, and for methods that users call. Methods that take ``**options`` check these themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import CodeType, FunctionType
from typing import Any, Final, TypeVar

_Class = TypeVar("_Class", bound=type[Any])

#: `inspect.CO_VARKEYWORDS`, without the cost of importing that module.
_TAKES_ANY_NAME: Final = 0x08


def named_options(cls: _Class) -> _Class:
    """Class decorator: the ``TypeError`` for an unknown option lists the allowed ones and names the nearest."""
    cls.__init__ = _explaining(cls.__init__, cls.__name__)
    return cls


def named_arguments(cls: _Class) -> _Class:
    """Class decorator: the same for each public method without ``**options``."""
    for name, method in list(vars(cls).items()):
        if isinstance(method, FunctionType) and not name.startswith("_"):
            code = _code_of(method)
            if not code.co_flags & _TAKES_ANY_NAME and len(_names_of(code)) > 1:
                setattr(cls, name, _explaining(method, name))
    return cls


def _explaining(make: Callable[..., Any], shown: str) -> Callable[..., Any]:
    @wraps(make)
    def explaining(*args: Any, **options: Any) -> Any:
        try:
            return make(*args, **options)
        except TypeError:
            allowed = [name for name in _names_of(_code_of(make)) if name != "self"]
            for name in options:
                if name not in allowed:
                    # Only for who has made a mistake.
                    from orchestrator.core.spelling.nearest import meant

                    raise TypeError(
                        f"{shown}() got an unexpected keyword argument {name!r}; "
                        f"allowed: {', '.join(allowed)}{meant(name, allowed)}"
                    ) from None
            raise

    return explaining


def _code_of(function: Any) -> CodeType:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code: CodeType = function.__code__
    return code


def _names_of(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
