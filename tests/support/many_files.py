"""A process with more open files than `select.select` can name."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

#: `select.select` takes no file with a number from this on.
MOST_FILES_OF_SELECT = 1024


@contextmanager
def many_open_files() -> Iterator[None]:
    """What is opened in this block has a number from `MOST_FILES_OF_SELECT` on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        null = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, null)
        while (copy := os.dup(null)) < MOST_FILES_OF_SELECT:
            stack.callback(os.close, copy)
        stack.callback(os.close, copy)
        yield
