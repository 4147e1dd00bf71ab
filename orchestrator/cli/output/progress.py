"""A progress bar on stderr, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items done; it draws on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    if total is None:
        with _counter(title) as count:
            yield count
        return
    with click.progressbar(length=total, label=title, show_pos=True, file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def _counter(title: str) -> Iterator[Callable[[int], None]]:
    """A counter, for work of unknown size."""
    total = 0

    def count(done: int) -> None:
        nonlocal total
        total += done
        click.echo(f"\r{title}: {total}", err=True, nl=False)

    yield count
    click.echo(err=True)
