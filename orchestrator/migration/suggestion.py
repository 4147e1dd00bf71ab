"""Suggests supervised replacements for findings."""

from __future__ import annotations

import ast
from collections.abc import Callable

from orchestrator.migration.evidence import dotted_name, is_signature, send_kind
from orchestrator.migration.finding import FindingKind

Text = Callable[[ast.expr], str | None]
"""Returns the source text of an expression; None if it is too long."""


def suggest_send(call: ast.Call, kind: FindingKind, text: Text) -> str:
    """The supervised spelling of the send `call`."""
    receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
    if kind is FindingKind.SEND_TASK:
        return f"orchestrator.send({_named_signature(call, receiver, text)})"
    return f"orchestrator.send({_signature(call, kind, receiver, text)})"


def suggest_wait(call: ast.Call, text: Text) -> str:
    """The same wait as `call`, with a timeout."""
    if not isinstance(call.func, ast.Attribute):
        raise TypeError(f"a wait is a method call, not {type(call.func).__name__}")
    receiver = call.func.value
    if isinstance(receiver, ast.Call) and (kind := send_kind(receiver)) is not None:
        return f"{suggest_send(receiver, kind, text)}.wait(timeout_s=...)"
    named = text(receiver) if isinstance(receiver, ast.Name | ast.Attribute | ast.Call) else None
    return f"{named or 'result'}.{call.func.attr}(timeout=...)"


def _signature(call: ast.Call, kind: FindingKind, receiver: ast.expr | None, text: Text) -> str:
    if receiver is not None and is_signature(receiver):
        signature = text(receiver) or "signature"
        if isinstance(receiver, ast.BinOp):
            signature = f"({signature})"
    else:
        task = text(receiver) if receiver is not None and dotted_name(receiver) else None
        signature = f"{task or 'task'}.s({'...' if _has_arguments(call, kind) else ''})"
    return f"{signature}.set(...)" if _has_options(call, kind) else signature


def _named_signature(call: ast.Call, receiver: ast.expr | None, text: Text) -> str:
    app = (text(receiver) if receiver is not None and dotted_name(receiver) else None) or "app"
    name = text(call.args[0]) if call.args and not isinstance(call.args[0], ast.Starred) else None
    arguments = [name or "..."]
    if name is not None and len(call.args) + len(call.keywords) > 1:
        arguments.append("...")
    return f"{app}.signature({', '.join(arguments)})"


def _has_arguments(call: ast.Call, kind: FindingKind) -> bool:
    if kind is FindingKind.APPLY_ASYNC:
        return bool(call.args) or any(keyword.arg in ("args", "kwargs", None) for keyword in call.keywords)
    return bool(call.args or call.keywords)


def _has_options(call: ast.Call, kind: FindingKind) -> bool:
    return kind is FindingKind.APPLY_ASYNC and any(keyword.arg not in ("args", "kwargs") for keyword in call.keywords)
