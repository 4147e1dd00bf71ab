"""Options that take a duration: ``90``, ``90s``, ``5m``, ``1h30m``, ``2d``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.core.times import age, duration

#: How help names such a value.
METAVAR = "DURATION"

if TYPE_CHECKING:
    _FloatType = click.ParamType[float]
else:
    # Generic in newer versions of click only.
    _FloatType = click.ParamType


class Duration(_FloatType):
    """Seconds as a float, within bounds."""

    name = "duration"

    def __init__(self, low_s: float = 0.0, high_s: float = float("inf")) -> None:
        self._low_s = low_s
        self._high_s = high_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text; fails as a usage error that names the value and what is allowed."""
        try:
            seconds = duration(value) if isinstance(value, str) else float(value)
        except (ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)
        if not self._low_s <= seconds <= self._high_s:
            high = "" if self._high_s == float("inf") else f" to {age(self._high_s)}"
            self.fail(f"{value!r} is not allowed; allowed: {age(self._low_s)}{high or ' or more'}", param, ctx)
        return seconds
