"""Shows the progress of the demo: a bar at a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_QUARTERS = 4


class Display(Protocol):
    """Shows progress while its context is open."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def show(self, done: int) -> None:
        """Show that this number of messages has an outcome."""
        ...

    def say(self, line: str) -> None:
        """Print a line about an event."""
        ...


def display(console: Console, total: int) -> Display:
    """A bar if the console is a terminal, else plain lines."""
    return Bar(console, total) if console.is_terminal else Lines(console, total)


class Bar:
    """A progress bar, with lines printed above it."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("auditing"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("auditing", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def say(self, line: str) -> None:
        """Print above the bar."""
        self._progress.console.print(line, markup=False)


class Lines:
    """A line for each quarter."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return

    def show(self, done: int) -> None:
        """Print if another quarter is done."""
        quarter = done * _QUARTERS // self._total
        if quarter > self._shown:
            self._shown = quarter
            self.say(f"{done} of {self._total} done")

    def say(self, line: str) -> None:
        """Print the line."""
        self._console.print(line, markup=False, soft_wrap=True)
