"""`Needs`: what agents have to offer that are looked for by their capabilities."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.checks.numbers import check_number
from orchestrator.core.checks.text import is_text
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_options
from orchestrator.core.workflows.placement import names_fault

#: The highest load that can be asked for.
_MOST_LOAD = 1_000_000_000


@named_options
@dataclass(frozen=True, slots=True, init=False)
class Needs:
    """The living agents that offer all of some capabilities: ``Needs("ocr", "gpu", max_load=2)``.

    With ``max_load``, only those that have at most this many messages waiting and running for each of their slots; with
    ``host``, only those that a worker on that host serves.

    Raises:
        InvalidPolicy: a name, ``max_load`` or ``host`` has a value that is not allowed.
    """

    capabilities: tuple[str, ...]
    max_load: float | None = None
    host: str | None = None

    def __init__(self, *capabilities: str, max_load: float | None = None, host: str | None = None) -> None:
        if fault := names_fault(capabilities):
            raise InvalidPolicy("capabilities", capabilities, fault.removeprefix("allowed: "))
        if max_load is not None:
            check_number("max_load", max_load, 0, _MOST_LOAD)
        if host is not None and (not is_text(host) or not host):
            raise InvalidPolicy("host", host, "the name of a host, or None for any")
        object.__setattr__(self, "capabilities", tuple(dict.fromkeys(capabilities)))
        object.__setattr__(self, "max_load", max_load)
        object.__setattr__(self, "host", host)

    def __str__(self) -> str:
        more = "" if self.max_load is None else f" with a load of at most {self.max_load:g}"
        return ", ".join(self.capabilities) + more + ("" if self.host is None else f" on {self.host}")
