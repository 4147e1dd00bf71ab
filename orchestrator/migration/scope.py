"""Tracks which names hold Celery results, and where."""

from __future__ import annotations

import ast
from bisect import bisect_right, insort
from operator import itemgetter
from typing import TypeAlias

Position: TypeAlias = tuple[int, int]
"""Line from 1, offset in UTF-8 bytes from 0: as `ast` counts."""


class Scope:
    """The assignments of one module, class, function or comprehension.

    A comprehension sees the names of the scope around it. A nested function does not: by the time it runs
    they may hold something else.
    """

    __slots__ = ("_bindings", "around")

    def __init__(self, around: Scope | None = None) -> None:
        self.around = around
        """The enclosing scope whose names this one sees too; only a comprehension has one."""
        self._bindings: dict[str, list[tuple[Position, ast.expr | None]]] = {}

    @property
    def owner(self) -> Scope:
        """The scope in which `:=` binds: for a comprehension, the one around it."""
        scope = self
        while scope.around is not None:
            scope = scope.around
        return scope

    def bind(self, name: str, position: Position, result: ast.expr | None) -> None:
        """Record that from `position` on `name` holds the Celery result `result`, or something else (None)."""
        insort(self._bindings.setdefault(name, []), (position, result), key=itemgetter(0))

    def result_in(self, name: str, position: Position) -> ast.expr | None:
        """The expression whose Celery result `name` holds at `position`; None if it holds none we know of.

        The nearest assignment above decides. Where there is none, one below does: loops run upwards.
        """
        scope: Scope | None = self
        while scope is not None and name not in scope._bindings:
            scope = scope.around
        if scope is None:
            return None
        bindings = scope._bindings[name]
        above = bisect_right(bindings, position, key=itemgetter(0))
        if above > 0:
            return bindings[above - 1][1]
        return next((result for _, result in bindings if result is not None), None)
