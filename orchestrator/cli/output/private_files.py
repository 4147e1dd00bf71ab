"""Files that may hold secrets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from orchestrator.cli.reported_errors import ExitCode, Stop
from orchestrator.core.named_files import naming


@contextmanager
def open_private(path: Path) -> Iterator[IO[str]]:
    """Open the file for writing, readable only by its owner.

    Raises:
        Stop: it cannot be opened.
        OSError: it cannot be written; names it.
    """
    if str(path) == "-":
        with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as out:
            yield out
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise Stop(f"{path}: {error.strerror}", ExitCode.CALLER) from None
    with naming(path), os.fdopen(descriptor, "w", encoding="utf-8") as out:
        yield out
