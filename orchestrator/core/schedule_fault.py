"""One fault of a schedule: which field, its value, what is allowed there, and the nearest value that is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.secrets.masked_repr import masked, masked_repr


@dataclass(frozen=True, slots=True)
class ScheduleFault:
    """A value that is not allowed in a schedule's definition."""

    #: Empty if no field has the fault, but which of them are given; then ``value`` says that.
    field: str
    value: object
    allowed: str
    #: A valid value near to the one given; empty if none is near.
    nearest: str = ""

    def __str__(self) -> str:
        if not self.field:
            return f"{self.value}; allowed: {self.allowed}"
        text = f"{masked(f'{self.field}={masked_repr(self.value)}')} is not allowed; allowed: {self.allowed}"
        return f"{text}; did you mean {self.nearest!r}?" if self.nearest else text
