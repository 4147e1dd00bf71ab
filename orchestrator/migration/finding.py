"""The results of an audit: findings, or an error if the source cannot be parsed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

Confidence: TypeAlias = Literal["certain", "possible"]
"""`certain`: the file shows that this is Celery. `possible`: it only looks like it."""


class FindingKind(StrEnum):
    """A kind of unsupervised send or wait."""

    DELAY = "delay"
    APPLY_ASYNC = "apply_async"
    SEND_TASK = "send_task"
    GET_WITHOUT_TIMEOUT = "get_without_timeout"
    """`.get()`, or a result set's `.join()`, that would wait for ever."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One call that is not supervised.

    `line` and `column` count from 1, `column` in characters. Both point at the method's name: in a chain over
    several lines each call is found where it is written.
    """

    path: str
    line: int
    column: int
    kind: FindingKind
    confidence: Confidence
    snippet: str
    """The source line, stripped, at most 160 characters."""
    suggestion: str
    """What to write instead, in one line; `...` stands for arguments to carry over."""


class UnparsableSource(ValueError):
    """The source is not Python that this interpreter can parse, so nothing is known about its sends.

    `line` counts from 1, and is None where the parser names none.
    """

    def __init__(self, path: str, line: int | None, reason: str) -> None:
        super().__init__(path, line, reason)
        self.path = path
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.reason}"
