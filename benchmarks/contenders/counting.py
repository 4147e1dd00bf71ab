"""Counting executions at almost no cost, the same for every library: each process counts in a file of its own."""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import threading
from pathlib import Path

_OPENING = threading.Lock()
_COUNTERS: dict[int, tuple[mmap.mmap, itertools.count[int]]] = {}


def count() -> None:
    """One more has been executed in this process."""
    counter = _COUNTERS.get(os.getpid())
    if counter is None:
        with _OPENING:
            counter = _COUNTERS.get(os.getpid())
            if counter is None:
                counter = _COUNTERS[os.getpid()] = _open()
    struct.pack_into("<Q", counter[0], 0, next(counter[1]))


def _open() -> tuple[mmap.mmap, itertools.count[int]]:
    path = Path(os.environ["BENCH_COUNTS"]) / str(os.getpid())
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8), itertools.count(1)


def counted(folder: Path) -> list[int]:
    """How many each process has executed."""
    contents = [path.read_bytes() for path in folder.iterdir()]
    return [struct.unpack("<Q", content)[0] for content in contents if len(content) == 8]
