"""Collects in one walk over a syntax tree what an audit needs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from orchestrator.migration.evidence import (
    WAITS,
    dotted_name,
    evident_result,
    is_celery_module,
    is_task_decorator,
    is_task_module,
    send_kind,
)
from orchestrator.migration.scope import Position, Scope

_START: Position = (0, 0)


@dataclass(slots=True)
class Survey:
    """The imports, declarations and calls of a file."""

    imports_celery: bool = False
    tasks: set[str] = field(default_factory=set)
    """Dotted names that stand for a task, or for a module of tasks."""
    calls: list[tuple[ast.Call, Scope]] = field(default_factory=list)
    """Calls whose names suggest a send or a wait, with their scopes; unordered."""


def survey(tree: ast.Module) -> Survey:
    """Walk `tree` once; its depth may exceed the interpreter's recursion limit."""
    walk = _Walk()
    walk.visit((tree,), Scope())
    while walk.pending:
        walk.step(*walk.pending.pop())
    return walk.found


class _Walk:
    __slots__ = ("_settled", "found", "pending")

    def __init__(self) -> None:
        self.found = Survey()
        self.pending: list[tuple[ast.AST, Scope]] = []
        self._settled: set[ast.expr] = set()

    def visit(self, nodes: Iterable[ast.AST | None], scope: Scope) -> None:
        self.pending.extend((node, scope) for node in nodes if node is not None)

    def step(self, node: ast.AST, scope: Scope) -> None:
        match node:
            case ast.expr_context() | ast.Constant():
                return
            case ast.Name(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
                self._bind(node, scope, (node.lineno, node.col_offset), None)
            case ast.Call():
                self._call(node, scope)
            case ast.Assign(targets=targets, value=value):
                self._assign(node, targets, value, scope)
            case ast.AnnAssign(target=target, value=value):
                self._assign(node, (target,), value, scope)
            case ast.NamedExpr(target=target, value=value):
                self._assign(node, (target,), value, scope.owner)
            case ast.Import() | ast.ImportFrom():
                self._import(node)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node, scope)
                return
            case ast.ClassDef():
                self.visit((*node.decorator_list, *node.bases, *node.keywords), scope)
                self.visit(node.body, Scope())
                return
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                scope = Scope(around=scope)
        self.visit(ast.iter_child_nodes(node), scope)

    def _call(self, node: ast.Call, scope: Scope) -> None:
        waits = isinstance(node.func, ast.Attribute) and node.func.attr in WAITS
        if waits or send_kind(node) is not None:
            self.found.calls.append((node, scope))

    def _assign(
        self,
        node: ast.Assign | ast.AnnAssign | ast.NamedExpr,
        targets: Iterable[ast.expr],
        value: ast.expr | None,
        scope: Scope,
    ) -> None:
        # The value is evaluated before the name is bound: in `r = r.get()` the call still sees the old `r`.
        position = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
        # `r = None` only declares the name.
        prepares = value is None or (isinstance(value, ast.Constant) and value.value is None)
        result = None if value is None else evident_result(value)
        for target, whole in _unpacked(targets):
            if not prepares:
                self._bind(target, scope, position, result if whole else None)
            self._settled.add(target)

    def _bind(
        self, target: ast.Name | ast.Attribute, scope: Scope, position: Position, result: ast.expr | None
    ) -> None:
        if target not in self._settled and (name := dotted_name(target)) is not None:
            scope.bind(name, position, result)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> None:
        inner = Scope()
        arguments = node.args
        named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        for argument in (*named, arguments.vararg, arguments.kwarg):
            if argument is not None:
                inner.bind(argument.arg, _START, None)
        self.visit((arguments,), scope)
        if isinstance(node, ast.Lambda):
            self.visit((node.body,), inner)
            return
        if any(is_task_decorator(decorator) for decorator in node.decorator_list):
            self.found.tasks.add(node.name)
        self.visit((*node.decorator_list, node.returns), scope)
        self.visit(node.body, inner)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else None
        for alias in node.names:
            whole = alias.name if module is None else f"{module}.{alias.name}"
            if is_celery_module(whole):
                self.found.imports_celery = True
            if is_task_module(whole) or (module is not None and is_task_module(module)):
                self.found.tasks.add(alias.asname or alias.name)


def _unpacked(targets: Iterable[ast.expr]) -> Iterator[tuple[ast.Name | ast.Attribute, bool]]:
    """The names assigned to, each with whether it takes the whole value or a part of it."""
    pending = [(target, True) for target in targets]
    while pending:
        match pending.pop():
            case (ast.Name() | ast.Attribute()) as target, whole:
                yield target, whole
            case ((ast.Tuple(elts=parts) | ast.List(elts=parts)), _):
                pending.extend((part, False) for part in parts)
            case ast.Starred(value=part), _:
                pending.append((part, False))
