"""What may be said with a send, and whether it was said right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policy import OnError, Retry

_YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class SendOptions:
    """A send's own words, checked. ``None`` leaves a thing to the handler, the agent, or the signature.

    Raises:
        InvalidPolicy: an option has a bad value.
    """

    retry: Retry | None = None
    on_error: OnError | None = None
    countdown_s: float | None = None
    expires_s: float | None = None
    priority: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    track: bool = True

    @classmethod
    def checked(
        cls,
        *,
        retry: Retry | None = None,
        on_error: OnError | str | None = None,
        countdown_s: float | None = None,
        expires_s: float | None = None,
        priority: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        track: bool = True,
    ) -> SendOptions:
        """From what a caller said."""
        if not isinstance(retry, Retry | None):
            raise InvalidPolicy("retry", retry, "a Retry")
        return cls(
            retry,
            None if on_error is None else _on_error(on_error),
            seconds("countdown_s", countdown_s),
            seconds("expires_s", expires_s),
            urgency(priority),
            _json_object("metadata", metadata),
            track,
        )


def seconds(name: str, value: float | None) -> float | None:
    """Seconds."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _YEAR_S:
        raise InvalidPolicy(name, value, "seconds from 0 to a year")
    return float(value)


def urgency(value: int | None) -> int | None:
    """Celery's priorities, as Redis has them: the lowest number first."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 9):
        raise InvalidPolicy("priority", value, "0 (first) to 9 (last)")
    return value


def _json_object(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    allowed = "an object of JSON data"
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidPolicy(name, value, allowed)
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidPolicy(name, value, allowed) from None
    return dict(value)


def _on_error(value: OnError | str) -> OnError:
    try:
        return OnError(value)
    except ValueError:
        raise InvalidPolicy("on_error", value, ", ".join(OnError)) from None
