"""Methods of an agent that are called with the replies to its asks: `@replies`."""

from __future__ import annotations

import ast
import inspect
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, Unpack

from pydantic import create_model

from orchestrator.agents.marks import MethodOptions, RepliesMark, check_names, checked_message, mark
from orchestrator.core.calls.reply import reply_name
from orchestrator.core.message import Message, message_name

F = TypeVar("F", bound=Callable[..., Any])


class ReplyFields(Message):
    """The fields of a reply's message; see :class:`orchestrator.core.calls.reply.Reply`."""

    id: str
    agent: str
    message: str
    tag: Any = None
    outcome: dict[str, Any]


def replies(message: type[Message], **options: Unpack[MethodOptions]) -> Callable[[F], F]:
    """Mark a method that is called with each reply to a ``message`` that this agent has asked with ``then=True``.

    It is called with a :class:`Reply` and a :class:`Context`, or with the reply alone. The options are those of
    :class:`Agent`, for these replies.

    Raises:
        InvalidDeclaration: ``message`` is not a :class:`Message` class.
        TypeError: there is no such option.
    """
    check_names("replies", options, MethodOptions.__optional_keys__)
    return mark(RepliesMark(checked_message("replies", message), options))


def reply_message(message: type[Message]) -> type[Message]:
    """The message that brings the replies to a message."""
    return create_model(reply_name(message_name(message)), __base__=ReplyFields)


def methods_that_ask(cls: type) -> Iterator[str]:
    """The methods of a class whose code asks with ``then=True``, as far as the source can be read."""
    for name, method in vars(cls).items():
        if not inspect.isfunction(method):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
        except (OSError, TypeError, SyntaxError, tokenize.TokenError):
            continue
        if any(_asks_then(node) for node in ast.walk(tree)):
            yield name


def _asks_then(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("ask", "ask_many")
        and any(
            word.arg == "then" and isinstance(word.value, ast.Constant) and word.value.value is True
            for word in node.keywords
        )
    )
