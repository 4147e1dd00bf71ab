"""Tables and text on a terminal. What they show is printed as it is: no markup, no control characters."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Mapping, Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.printable import lines, one_line

#: Where there is no terminal there is no width to fit into; `grep` wants whole lines.
_WIDTH_OF_A_FILE = 400

Cell = str | int


def console(context: click.Context) -> Console:
    """Stdout, in colour if it is a terminal and ``--no-color`` was not given."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal's encoding lacks is escaped, like all else that it cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(
        width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE,
        no_color=True if getattr(context.obj, "no_color", False) else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_table(
    out: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, fold: Collection[str] = ()
) -> None:
    """A table; columns of numbers are aligned to the right, and only those named in ``fold`` run over several lines."""
    out.print(Text(title, style="bold"))
    if not rows:
        out.print(Text("  none\n", style="dim"))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int) for row in rows)
        whole = not numeric and column not in fold
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(one_line(str(cell))) for cell in row))
    out.print(table)
    out.print()


def print_fields(out: Console, title: str, fields: Mapping[str, Cell]) -> None:
    """Names and values, one a line; what is empty is left out."""
    out.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        if value != "":
            table.add_row(Text(f"  {name}", style="dim"), Text(one_line(str(value)), overflow="fold"))
    out.print(table)
    out.print()


def print_text(out: Console, title: str, text: str) -> None:
    """A text of several lines."""
    out.print(Text(title, style="bold"))
    out.print(Text(lines(text)), soft_wrap=True)
    out.print()
