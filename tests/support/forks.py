"""Code that runs in a forked child of this process."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_fork(act: Callable[[], object]) -> str:
    """What ``act`` returns in a forked child, or the error that it raises, as text."""
    reads, writes = os.pipe()
    if not (child := os.fork()):
        try:
            try:
                said = str(act())
            except BaseException as error:  # noqa: BLE001
                said = f"{type(error).__name__}: {error}"
            os.write(writes, said.encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
