"""Files that may hold secrets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

from orchestrator.cli.reported_errors import ExitCode, Stop


def open_private(path: Path) -> IO[str]:
    """Open the file for writing, readable only by its owner."""
    if str(path) == "-":
        return open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise Stop(f"{path}: {error.strerror}", ExitCode.CALLER) from None
