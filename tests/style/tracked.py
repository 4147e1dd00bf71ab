"""The files that the checks read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path


def tracked(*suffixes: str) -> Iterator[Path]:
    """The tracked files with these suffixes ('' for files without one), relative to the repository."""
    names = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    paths = (Path(name) for name in names.split("\0") if name)
    return (path for path in paths if path.suffix in suffixes and path.is_file())
