"""The findings of a reader: a schedule that can be taken over, or the reason why it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.secrets.masked_repr import summary


@dataclass(frozen=True, slots=True)
class FoundSchedule:
    """A schedule of another scheduler."""

    name: str
    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: Celery's options of a send.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: One of Celery's schedule objects, a timedelta or seconds; ``None`` if ``when`` says it.
    schedule: Any = None
    #: Options of a schedule: ``cron`` with ``tz``, ``at``, ``start``, ``end``, ``max_runs``.
    when: Mapping[str, Any] = field(default_factory=dict)
    #: When it last ran, in ms since 1970.
    last_run_ms: int | None = None
    is_enabled: bool = True

    def __repr__(self) -> str:
        return summary(self, ("name", "task", "schedule", "when", "last_run_ms", "is_enabled"))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A schedule that cannot be taken over."""

    name: str
    why: str


Found = FoundSchedule | LeftOut


class UnreadableSource(ValueError):
    """The source as a whole cannot be read."""


def json_of(text: Any, kind: type, default: Any) -> Any:
    """Data in a JSON text, of a kind; the default for an empty text.

    Raises:
        ValueError: it is something else.
    """
    if text in (None, ""):
        return default
    data = json.loads(text) if isinstance(text, str | bytes) else text
    if not isinstance(data, kind):
        raise ValueError(f"{text!r} is not {'a list' if kind is list else 'an object'} in JSON")
    return data
