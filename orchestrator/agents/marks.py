"""The marks that decorators leave on the methods of an agent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict, TypeVar

from orchestrator.core.errors import InvalidDeclaration
from orchestrator.core.message import Message, message_name
from orchestrator.core.policies.policy import OnError, Retry
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.nearest import meant

F = TypeVar("F", bound=Callable[..., Any])

_MARKS: Final = "__orchestrator_marks__"


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of a method that is called with messages of one class, with their replies, or for a vote on them."""

    message: type[Message]
    #: The options of the decorator, for the messages by which the method is called.
    policy: Mapping[str, Any]

    def __str__(self) -> str:
        return f"@{type(self).__name__.removesuffix('Mark').lower()}({message_name(self.message)})"


@dataclass(frozen=True, slots=True)
class HandlesMark(Mark):
    """The method handles the message."""

    #: Whether it may do so twice for one request, also at once.
    is_idempotent: bool = False


class RepliesMark(Mark):
    """The method is called with the replies to the message."""


class VotesMark(Mark):
    """The method votes on the message."""


@dataclass(frozen=True, slots=True)
class PeriodicMark:
    """The method runs by a schedule."""

    options: Mapping[str, Any]

    def __str__(self) -> str:
        return "@every" if "every_s" in self.options else "@cron"


#: What a method may be marked with.
DeclaredMark = HandlesMark | RepliesMark | VotesMark | PeriodicMark


def checked_message(decorator: str, message: object) -> type[Message]:
    """The message class that a decorator was given.

    Raises:
        InvalidDeclaration: it is none.
    """
    if not (isinstance(message, type) and issubclass(message, Message)):
        raise InvalidDeclaration(f"@{decorator}({masked_repr(message)}): allowed: a subclass of Message")
    return message


class MethodOptions(TypedDict, total=False):
    """The arguments of ``@votes`` and ``@replies``: options of :class:`Agent` for the messages that call the method."""

    retry: Retry | None
    on_error: OnError | str | None
    timeout_s: float | str | None
    priority: int | None


def check_names(decorator: str, options: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Check the names of a decorator's options.

    Raises:
        TypeError: it has no such option.
    """
    for name in options:
        if name not in allowed:
            raise TypeError(
                f"{decorator}() got an unexpected keyword argument {name!r}; "
                f"allowed: {', '.join(sorted(allowed))}{meant(name, allowed)}"
            )


def mark(value: DeclaredMark) -> Callable[[F], F]:
    """A decorator that adds a mark to a method."""

    def add(method: F) -> F:
        setattr(method, _MARKS, (*marks_of(method), value))
        return method

    return add


def marks_of(method: object) -> tuple[DeclaredMark, ...]:
    """The marks of a method; none for other attributes."""
    marks: tuple[DeclaredMark, ...] = getattr(method, _MARKS, ())
    return marks


def marked_methods(cls: type) -> dict[str, DeclaredMark]:
    """The mark of each marked method of a class, by the method's name.

    Raises:
        InvalidDeclaration: a method has several.
    """
    found = {}
    for name, method in inspect.getmembers(cls, callable):
        marks = marks_of(method)
        if len(marks) > 1:
            raise InvalidDeclaration(
                f"{cls.__qualname__}.{name} is marked with {' and '.join(map(str, marks))}; allowed: one mark"
            )
        if marks:
            found[name] = marks[0]
    return found
