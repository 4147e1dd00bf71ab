"""Errors of writing a file that name it. The system does so where a file cannot be opened, not where a disk is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of writing to the file, or of closing it, name it.

    Raises:
        OSError: what the block raises.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
