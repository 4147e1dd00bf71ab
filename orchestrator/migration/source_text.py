"""The lines of a source, as the parser counts them."""

from __future__ import annotations

import ast
import re

_LONGEST_CHARACTERS = 60

# Not `str.splitlines`: it also breaks at form feeds and other characters that are no line end to Python.
_LINE_END = re.compile(r"\r\n|\r|\n")


class SourceText:
    """Looks up the source text of syntax nodes."""

    __slots__ = ("_lines",)

    def __init__(self, source: str) -> None:
        self._lines = _LINE_END.split(source.removeprefix("\ufeff"))

    def line(self, line: int) -> str:
        """Line `line`, from 1, without its end; empty if there is none."""
        # Python before 3.12 misplaces nodes within f-strings of several lines, at times past the end.
        return self._lines[line - 1] if 1 <= line <= len(self._lines) else ""

    def column(self, line: int, offset_bytes: int) -> int:
        """The column, in characters from 1, of what `ast` places at `offset_bytes`, in UTF-8 bytes from 0."""
        head = self.line(line).encode("utf-8", "surrogatepass")[: max(offset_bytes, 0)]
        return len(head.decode("utf-8", "replace")) + 1

    def of(self, node: ast.expr) -> str | None:
        """The source text of `node`; None if it has several lines or too many characters."""
        if node.end_lineno != node.lineno:
            return None
        start, end = (self.column(node.lineno, offset) - 1 for offset in (node.col_offset, node.end_col_offset or 0))
        return self.line(node.lineno)[start:end] if 0 < end - start <= _LONGEST_CHARACTERS else None
