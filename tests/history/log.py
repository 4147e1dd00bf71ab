"""What a process writes down of what it does."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from time import monotonic
from typing import Any


class Log:
    """A file with a line for each call and each return, by the monotonic clock, which all processes of a machine share.

    A line is the kernel's before anything else happens, so a process may be killed at any moment.
    """

    def __init__(self, file: Path, process: str) -> None:
        self.process = process
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._numbers = itertools.count()

    def note(self, **fields: Any) -> None:
        """Write a line down, from any thread."""
        line = json.dumps({"process": self.process, "at": monotonic(), **fields}) + "\n"
        os.write(self._file, line.encode())

    def call(self, name: str, act: str, argument: Any = None) -> int:
        """Write down that an operation begins; returns its number."""
        number = next(self._numbers)
        self.note(number=number, name=name, act=act, argument=argument)
        return number
