"""Named pipes that handlers read from: a handler lasts until the test writes to its pipe."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.eventually import eventually


def write_to(pipe: Path, text: str = "", describe: Callable[[], str] | None = None) -> None:
    """Write to a pipe as soon as a process reads it; fail the test if none does.

    `describe` adds to the failure's message, such as a process' log.
    """

    def opened() -> list[int]:
        try:
            return [os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return []

    (end,) = eventually(opened, 30, describe)
    with os.fdopen(end, "w") as file:
        file.write(text)
