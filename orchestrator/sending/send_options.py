"""The options of a send, and their check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypedDict

from orchestrator.core.checks.text import is_text
from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.attempt_limits import CURRENT
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.effective import Policy, seconds
from orchestrator.core.policies.policy import OnError, Retry, WhenDown, WhenOpen
from orchestrator.core.secrets.masked_repr import summary
from orchestrator.core.spelling.nearest import meant

#: A policy that leaves every value to the message's handler, agent and settings.
SILENT: Final = Policy()

#: Keys end up in Redis keys.
_LONGEST_KEY: Final = 200

_DAY_S: Final = 24 * 3600.0


class BroadcastOptions(TypedDict, total=False):
    """The options of every send. ``None`` is as if the option were not given."""

    #: How often, and after which pauses, a failed attempt is retried.
    retry: Retry | None
    #: What happens when the last attempt has failed: ``"dead_letter"``, ``"ignore"`` or ``"raise"``.
    on_error: OnError | str | None
    #: How long one attempt may take, in seconds.
    timeout_s: float | None
    #: When all attempts must have ended, in seconds from now; at least ``timeout_s``.
    deadline_s: float | None
    #: With ``"inherit"``, the message has the deadline of what the sending handler handles, or its own if that is
    #: earlier. It has no effect where no handler runs, or one without a deadline.
    deadline: Literal["inherit"] | None
    #: After how many seconds of waiting the message is not handled any more.
    expires_s: float | None
    #: As in Celery on Redis: 0 is handled first.
    priority: int | None
    #: Whether an expired message becomes a dead letter.
    dead_letter_expired: bool | None
    #: JSON data that handlers see in their context.
    metadata: Mapping[str, Any] | None


class DistributeOptions(BroadcastOptions, total=False):
    """What :meth:`Orchestrator.distribute` may set, for each of its items alike but for the key."""

    #: Of distributions with the same key, only the first is accepted. 1 to 200 characters.
    idempotency_key: str | None
    #: How long the key is remembered after the acceptance, in seconds; a day unless said otherwise.
    idempotency_ttl_s: float


class SendManyOptions(BroadcastOptions, total=False):
    """The options of :meth:`Orchestrator.send_many`, for all of its messages alike."""

    #: The messages are handled after this many seconds at the earliest.
    countdown_s: float | None
    #: What happens if no living worker hosts the agent: ``"queue"`` or ``"error"``.
    when_down: WhenDown | str | None
    #: What happens if the agent's circuit breaker is open: ``"error"`` or ``"queue"``.
    when_open: WhenOpen | str | None
    #: Whether an outcome is recorded that one can wait for; true unless said otherwise.
    track: bool | None


class SendOptions(SendManyOptions, total=False):
    """The options of a single send."""

    #: The moment before which the message is not handled, with a time zone; instead of ``countdown_s``.
    eta: datetime | None
    #: Of sends to one recipient with the same key, only the first is accepted. 1 to 200 characters.
    idempotency_key: str | None
    #: How long the key is remembered after the outcome, in seconds; a day unless said otherwise.
    idempotency_ttl_s: float


BROADCAST_OPTIONS: Final = BroadcastOptions.__optional_keys__
DISTRIBUTE_OPTIONS: Final = DistributeOptions.__optional_keys__
SEND_MANY_OPTIONS: Final = SendManyOptions.__optional_keys__
SEND_OPTIONS: Final = SendOptions.__optional_keys__

#: The options that are part of a policy.
POLICY_OPTIONS: Final = (
    "retry",
    "on_error",
    "timeout_s",
    "deadline_s",
    "expires_s",
    "priority",
    "when_down",
    "when_open",
    "dead_letter_expired",
)


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """The options of one send, checked."""

    policy: Policy = SILENT
    countdown_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    track: bool = True
    #: Idempotency key, and for how many ms it is remembered.
    idempotency: tuple[str, int] | None = None
    #: A deadline that the send inherits, in seconds since 1970.
    ends_by_s: float | None = None

    def __repr__(self) -> str:
        return summary(self, ("policy", "countdown_s", "metadata", "track", "idempotency"))


#: The options of a send that was given none.
NO_OPTIONS: Final = CheckedOptions()


def check_options(
    options: BroadcastOptions,
    allowed: frozenset[str] = SEND_OPTIONS,
    method: str = "send",
    arguments: frozenset[str] = frozenset(),
) -> CheckedOptions:
    """Check the options that were given to a ``method``, whose other ``arguments`` errors name, too.

    Raises:
        InvalidPolicy: an option has a bad value, or two do not fit together.
        TypeError: the method has no such option.
    """
    given: Mapping[str, Any] = options
    if not given:
        return NO_OPTIONS
    if not given.keys() <= allowed:
        unknown = min(given.keys() - allowed)
        known = sorted(allowed | arguments)
        raise TypeError(
            f"{method}() got an unexpected keyword argument {unknown!r}; allowed: {', '.join(known)}"
            f"{meant(unknown, known)}"
        )
    get = given.get
    timeout_s, deadline_s, countdown_s, metadata = (
        get(name) for name in ("timeout_s", "deadline_s", "countdown_s", "metadata")
    )
    values = {name: get(name) for name in POLICY_OPTIONS}
    policy = Policy(**values) if any(value is not None for value in values.values()) else SILENT
    if timeout_s is not None and deadline_s is not None and timeout_s > deadline_s:
        raise InvalidPolicy("timeout_s", timeout_s, f"at most deadline_s={deadline_s!r}")
    track, eta, key = get("track"), get("eta"), get("idempotency_key")
    if not isinstance(track, bool | None):
        raise InvalidPolicy("track", track, "True or False")
    track = track is not False
    return CheckedOptions(
        policy,
        seconds("countdown_s", countdown_s) if eta is None else _seconds_until(eta, countdown_s),
        {} if metadata is None else _json_object("metadata", metadata),
        track,
        None if key is None else _idempotency(key, get("idempotency_ttl_s", _DAY_S), track),
        _inherited(get("deadline")),
    )


def _inherited(deadline: str | None) -> float | None:
    """The deadline of what is handled here, in seconds since 1970, if a send inherits it."""
    if deadline is None:
        return None
    if deadline != "inherit":
        raise InvalidPolicy("deadline", deadline, "'inherit'; seconds are deadline_s")
    limits = CURRENT.get()
    return None if limits is None else limits.deadline_at_s


def _seconds_until(eta: datetime, countdown_s: float | None) -> float:
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
