"""Classes of timeouts: the names, such as ``long``, that declarations and settings use in place of seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from orchestrator.core.spelling.nearest import meant

#: The environment variable that names the profile file.
PROFILE_VARIABLE: Final = "ORCHESTRATOR_CONFIG"

#: A class' name. It begins with a letter, so it is never read as a number.
CLASS_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class NamedSeconds(float):
    """Seconds that a class of timeouts stands for; a float that also has the class' name."""

    __slots__ = ("name",)

    name: str

    def __new__(cls, seconds: float, name: str) -> NamedSeconds:
        """Make the seconds of the class ``name``."""
        made = super().__new__(cls, seconds)
        made.name = name
        return made

    def __reduce__(self) -> tuple[type[NamedSeconds], tuple[float, str]]:
        """The parts from which copies are made."""
        return NamedSeconds, (float(self), self.name)


def seconds_of(value: float | str, classes: Mapping[str, float]) -> float | None:
    """The seconds that a value stands for; ``None`` if it names no class."""
    if not isinstance(value, str):
        return value
    return NamedSeconds(classes[value], value) if value in classes else None


def allowed_seconds(value: object, classes: Mapping[str, float]) -> str:
    """The allowed classes, for an error that names an unknown one, with the nearest one."""
    if classes:
        return f"seconds above 0, or a class in timeout_classes ({', '.join(sorted(classes))}){meant(value, classes)}"
    profile = os.environ.get(PROFILE_VARIABLE)
    read = f"the profile read is {profile}" if profile else f"no profile was read, for {PROFILE_VARIABLE} is not set"
    return f"seconds above 0, or a class in timeout_classes, which has none; {read}"


def shown_seconds(seconds: float) -> str:
    """Seconds as errors show them, with the class that they come from."""
    return f"{seconds:g}" + (f" ({seconds.name})" if isinstance(seconds, NamedSeconds) else "")
