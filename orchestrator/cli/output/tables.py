"""Tables and text on a terminal. What they show is printed as it is: no markup, no control characters."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import click

from orchestrator.cli.output.layout import GAP, fit, width_of, wrap
from orchestrator.cli.output.printable import lines, one_line


class Tone(StrEnum):
    """The meaning of a cell, shown as its colour."""

    GOOD = "green"
    WARNING = "yellow"
    BAD = "red"


@dataclass(frozen=True, slots=True)
class Toned:
    """A cell with a colour."""

    text: str
    tone: Tone

    def __str__(self) -> str:
        return self.text


Cell = str | int | Toned


@dataclass(frozen=True, slots=True)
class Console:
    """Stdout: its width in cells (``None`` where there is no terminal: `grep` wants whole lines), and its colours."""

    width: int | None
    colour: bool
    rule: str = "─"

    def line(self, text: str = "", *, bold: bool = False, dim: bool = False, tone: Tone | None = None) -> None:
        """Print a line of text that is printable."""
        click.echo(self.styled(text, bold=bold, dim=dim, tone=tone), color=self.colour)

    def styled(self, text: str, *, bold: bool = False, dim: bool = False, tone: Tone | None = None) -> str:
        """The text with what makes a terminal show it so."""
        if not self.colour or not text:
            return text
        return click.style(text, fg=tone, bold=bold or None, dim=dim or None)


def console(context: click.Context) -> Console:
    """Stdout, in colour if it is a terminal and neither ``--no-color`` nor ``NO_COLOR`` is given."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal's encoding lacks is escaped, like all else that it cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    terminal = sys.stdout.isatty()
    plain = getattr(context.obj, "no_color", False) or bool(os.environ.get("NO_COLOR"))
    colour = terminal and not plain and os.environ.get("TERM") != "dumb"
    rule = "─" if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else "-"
    return Console(shutil.get_terminal_size().columns if terminal else None, colour, rule)


def print_table(
    out: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    fold: Collection[str] = (),
    drop: Sequence[str] = (),
) -> None:
    """A table; columns of numbers are aligned to the right.

    Where it is wider than the terminal, columns named in ``fold`` run over several lines; then those named in ``drop``
    are left out, the first one first, and a line names them; then any column runs over several lines.
    """
    out.line(one_line(title), bold=True)
    if not rows:
        out.line("  none", dim=True)
        out.line()
        return
    texts = [[one_line(str(cell)) for cell in row] for row in rows]
    natural = [max(width_of(column), *(width_of(row[at]) for row in texts)) for at, column in enumerate(columns)]
    fitted = fit(natural, [columns.index(n) for n in fold], [columns.index(n) for n in drop], out.width)
    right = {at for at in range(len(columns)) if all(isinstance(row[at], int) for row in rows)}
    for cells in _lines(columns, fitted.shown, right):
        out.line(_joined(cells), bold=True)
    out.line(out.rule * (sum(width for _, width in fitted.shown) + GAP * (len(fitted.shown) - 1)), dim=True)
    for row, text in zip(rows, texts, strict=True):
        tones = {at: cell.tone for at, cell in enumerate(row) if isinstance(cell, Toned)}
        for cells in _lines(text, fitted.shown, right):
            out.line(_joined([(at, out.styled(part, tone=tones.get(at)), pad) for at, part, pad in cells]))
    if fitted.left_out:
        names = ", ".join(columns[at] for at in fitted.left_out)
        out.line(f"No room for: {names} (a wider terminal or --json shows them)", dim=True)
    out.line()


#: A column's place, what it shows on one line, and the blanks that go before or after it.
_Part = tuple[int, str, tuple[int, int]]


def _lines(texts: Sequence[str], shown: Sequence[tuple[int, int]], right: Collection[int]) -> list[list[_Part]]:
    """A row as lines of the screen."""
    wrapped = [(at, width, wrap(texts[at], width)) for at, width in shown]
    return [
        [_part(at, parts[number] if number < len(parts) else "", width, at in right) for at, width, parts in wrapped]
        for number in range(max(len(parts) for _, _, parts in wrapped))
    ]


def _part(at: int, text: str, width: int, to_the_right: bool) -> _Part:
    blanks = max(0, width - width_of(text))
    return at, text, (blanks, 0) if to_the_right else (0, blanks)


def _joined(parts: Sequence[_Part]) -> str:
    return (" " * GAP).join(f"{' ' * before}{text}{' ' * after}" for _, text, (before, after) in parts).rstrip()


def print_fields(out: Console, title: str, fields: Mapping[str, Cell]) -> None:
    """Names and values, one a line; what is empty is left out."""
    out.line(one_line(title), bold=True)
    shown = {name: value for name, value in fields.items() if str(value) != ""}
    indent = max((width_of(name) for name in shown), default=0) + 2 * GAP
    for name, value in shown.items():
        text = one_line(str(value))
        parts = [text] if out.width is None else wrap(text, max(20, out.width - indent))
        tone = value.tone if isinstance(value, Toned) else None
        head = out.styled(f"  {name}", dim=True) + " " * (indent - GAP - width_of(name))
        for part in parts:
            out.line(head + out.styled(part, tone=tone))
            head = " " * indent
    out.line()


def print_text(out: Console, title: str, text: str) -> None:
    """A text of several lines."""
    out.line(one_line(title), bold=True)
    out.line(lines(text))
    out.line()
