"""Recognises sends, results, waits and tasks by their syntax alone."""

from __future__ import annotations

import ast

from orchestrator.migration.finding import FindingKind

_SENDS = {
    "delay": FindingKind.DELAY,
    "apply_async": FindingKind.APPLY_ASYNC,
    "send_task": FindingKind.SEND_TASK,
}
_RESULT_CLASSES = frozenset({"AsyncResult", "GroupResult", "ResultSet"})
_CANVAS = frozenset({"group", "chord", "chain"})
_CANVAS_MODULES = frozenset({"celery", "canvas"})
_SIGNATURE_METHODS = frozenset({"s", "si", "signature", "subtask", "set"})
_TASK_DECORATORS = frozenset({"task", "shared_task", "periodic_task"})
_CELERY_MODULES = frozenset({"celery", "celery_app", "celeryapp"})
_POOL_ONLY_KEYWORDS = frozenset({"func", "kwds", "callback", "error_callback"})

WAITS = frozenset({"get", "join", "join_native"})


def last_name(node: ast.expr) -> str | None:
    """The last name of an expression: `c` of `a.b.c`; None if it does not end in a name."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def dotted_name(node: ast.expr) -> str | None:
    """`a.b.c` as text; None if the expression is not made of names and dots."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    names.append(node.id)
    return ".".join(reversed(names))


def leading_name(node: ast.expr) -> str | None:
    """The dotted name a chain starts with: `shop.charge.s` of `shop.charge.s(1).set(x=1).apply_async()`."""
    start: ast.expr = node
    while True:
        match node:
            case ast.Call(func=inner) | ast.Subscript(value=inner):
                node = start = inner
            case ast.Attribute(value=inner):
                node = inner
            case ast.Name():
                return dotted_name(start)
            case _:
                return None


def send_kind(call: ast.Call) -> FindingKind | None:
    """The way in which `call` sends a Celery task; None if it sends none."""
    function = call.func
    if isinstance(function, ast.Name):
        return FindingKind.SEND_TASK if function.id == "send_task" else None
    if not isinstance(function, ast.Attribute):
        return None
    kind = _SENDS.get(function.attr)
    if kind is FindingKind.APPLY_ASYNC and _suits_only_a_process_pool(call):
        return None
    return kind


def _suits_only_a_process_pool(call: ast.Call) -> bool:
    # `Pool.apply_async(func, args, kwds)` of multiprocessing is not `Task.apply_async(args, kwargs)`.
    keywords = {keyword.arg for keyword in call.keywords}
    if keywords & _POOL_ONLY_KEYWORDS or (call.args and "args" in keywords):
        return True
    if call.args and isinstance(call.args[0], ast.Lambda):
        return True
    return len(call.args) > 1 and isinstance(call.args[1], ast.Tuple | ast.List)


def operands(node: ast.expr) -> list[ast.expr]:
    """The expressions `node` may evaluate to: conditions, `or` and `:=` are looked through."""
    found: list[ast.expr] = []
    pending = [node]
    while pending:
        match pending.pop():
            case ast.IfExp(body=body, orelse=orelse):
                pending += (orelse, body)
            case ast.BoolOp(values=values):
                pending += reversed(values)
            case ast.NamedExpr(value=value):
                pending.append(value)
            case other:
                found.append(other)
    return found


def evident_result(node: ast.expr) -> ast.expr | None:
    """The part of `node` that yields a Celery result, judged by its form alone; None if there is none."""
    return next((operand for operand in operands(node) if _yields_result(operand)), None)


def _yields_result(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if send_kind(node) is not None or last_name(node.func) in _RESULT_CLASSES:
        return True
    return isinstance(node.func, ast.Call) and _is_canvas(node.func.func)


def _is_canvas(function: ast.expr) -> bool:
    # `match.group(1)()` is no Celery group.
    if isinstance(function, ast.Attribute) and last_name(function.value) not in _CANVAS_MODULES:
        return False
    return last_name(function) in _CANVAS


def is_signature(node: ast.expr) -> bool:
    """Whether `node` is evidently a Celery signature already, not a task."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.BitOr)
    if not isinstance(node, ast.Call):
        return False
    by_method = isinstance(node.func, ast.Attribute) and node.func.attr in _SIGNATURE_METHODS
    return by_method or _is_canvas(node.func)


def waits_for_ever(call: ast.Call) -> bool:
    """Whether a `.get` or `.join` of a result has no timeout. Arguments we cannot see count as one."""
    if call.args:
        return _is_none(call.args[0])
    for keyword in call.keywords:
        if keyword.arg is None:
            return False
        if keyword.arg == "timeout":
            return _is_none(keyword.value)
    return True


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_task_decorator(node: ast.expr) -> bool:
    """Whether `node` is `@app.task`, `@shared_task` or the like, called or not."""
    return last_name(node.func if isinstance(node, ast.Call) else node) in _TASK_DECORATORS


def is_celery_module(dotted: str) -> bool:
    """Whether a module's name suggests Celery: Celery's own, or the module of a project's app."""
    return not _CELERY_MODULES.isdisjoint(dotted.split("."))


def is_task_module(dotted: str) -> bool:
    """Whether a module is named as Celery's autodiscovery expects: `tasks` or `*.tasks`."""
    return dotted.rpartition(".")[2] == "tasks"
