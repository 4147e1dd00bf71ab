"""What may be said with a send, and whether it was said right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.core.clock import to_ms
from orchestrator.core.effective import Policy, seconds
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.masked_repr import summary
from orchestrator.core.policy import OnError, Retry, WhenDown
from orchestrator.core.text import is_text

#: A send that leaves everything to the others.
SILENT = Policy()

#: Keys end up in Redis keys.
_LONGEST_KEY = 200


@dataclass(frozen=True, slots=True)
class SendOptions:
    """A send's own words, checked."""

    policy: Policy = SILENT
    countdown_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    track: bool = True
    #: Idempotency key, and for how many ms it is remembered.
    idempotency: tuple[str, int] | None = None

    def __repr__(self) -> str:
        return summary(self, ("policy", "countdown_s", "metadata", "track", "idempotency"))

    @classmethod
    def checked(
        cls,
        *,
        retry: Retry | None = None,
        on_error: OnError | str | None = None,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        countdown_s: float | None = None,
        eta: datetime | None = None,
        expires_s: float | None = None,
        priority: int | None = None,
        when_down: WhenDown | str | None = None,
        dead_letter_expired: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
        track: bool = True,
        idempotency_key: str | None = None,
        idempotency_ttl_s: float = 24 * 3600.0,
    ) -> SendOptions:
        """From what a caller said.

        Raises:
            InvalidPolicy: an option has a bad value, or two do not fit together.
        """
        said: dict[str, Any] = {
            "retry": retry,
            "on_error": on_error,
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
            "expires_s": expires_s,
            "priority": priority,
            "when_down": when_down,
            "dead_letter_expired": dead_letter_expired,
        }
        if timeout_s is not None and deadline_s is not None and seconds("timeout_s", timeout_s):
            seconds("deadline_s", deadline_s)
            if timeout_s > deadline_s:
                raise InvalidPolicy("timeout_s", timeout_s, f"at most deadline_s={deadline_s!r}")
        return cls(
            Policy(**said) if any(value is not None for value in said.values()) else SILENT,
            seconds("countdown_s", countdown_s) if eta is None else _until(eta, countdown_s),
            {} if metadata is None else _json_object("metadata", metadata),
            track,
            None if idempotency_key is None else _idempotency(idempotency_key, idempotency_ttl_s, track),
        )


def _until(eta: datetime, countdown_s: float | None) -> float:
    if countdown_s is not None:
        raise InvalidPolicy("eta", eta, "either eta or countdown_s")
    if not isinstance(eta, datetime) or eta.tzinfo is None:
        raise InvalidPolicy("eta", eta, "a datetime with a time zone")
    left_s = max(0.0, (eta - datetime.now(UTC)).total_seconds())
    seconds("eta", left_s)
    return left_s


def _idempotency(key: str, ttl_s: float, track: bool) -> tuple[str, int]:
    if not is_text(key) or not 1 <= len(key) <= _LONGEST_KEY:
        raise InvalidPolicy("idempotency_key", key, f"a text of 1 to {_LONGEST_KEY} characters")
    if not seconds("idempotency_ttl_s", ttl_s):
        raise InvalidPolicy("idempotency_ttl_s", ttl_s, "seconds above 0, at most a year")
    if not track:
        raise InvalidPolicy("track", track, "True, with an idempotency key: its outcome is what is remembered")
    return key, max(1, to_ms(ttl_s))


def _json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    allowed = "an object of JSON data"
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidPolicy(name, value, allowed)
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidPolicy(name, value, allowed) from None
    return dict(value)
