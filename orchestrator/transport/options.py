"""The transport's settings, as they come in Celery's ``broker_transport_options``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from orchestrator.core.checks.numbers import is_number, is_whole_number
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import InvalidSettings
from orchestrator.core.secrets.redact import USUAL

_NOT_NUMBERS = (
    "node_name",
    "managed",
    "describe",
    "on_death",
    "on_sweep",
    "dead_letter_expired",
    "redact",
    "heart",
    "max_message_bytes",
    "claim_ahead",
)

#: Called with an ended incarnation and the reason; returns whether all is done that its death entails.
DeathHook: TypeAlias = Callable[[str, str], bool]

#: A script that moves a message of this size (bytes) holds Redis for about 80 ms.
LARGE_BYTES = 16 * 1024 * 1024

#: Round trips that connecting and the next heartbeat take. The margin for slow round trips has a limit; with a heart,
#: which connects on its own, a lower one, so that a death of both is known within 2 s.
_ROUND_TRIPS_TO_CONNECT = 6
_LONGEST_MARGIN_MS, _LONGEST_MARGIN_WITH_HEART_MS = 2000, 1300


@dataclass(frozen=True, slots=True)
class Options:
    """The transport's settings; times in seconds. With the defaults, a killed worker's messages run again within 2 s.

    Raises:
        InvalidSettings: a value is out of range, or two do not fit together.
    """

    #: Interval between two heartbeats of a worker.
    heartbeat_s: float = 0.5
    #: A heartbeat older than this makes the sweep ask Redis whether the worker's connection is still open.
    heartbeat_timeout_s: float = 0.6
    #: A worker whose connection is still open (a stopped or hung process) is dead if its last heartbeat is older than
    #: this.
    lease_s: float = 10.0
    #: If there was no sweep for this long, any worker sweeps.
    sweep_stale_s: float = 0.5
    #: If there was no sweep for this long, old heartbeats prove nothing (Redis was away), so living workers first get
    #: time to send one. Longer than it takes for a fallback sweep.
    sweep_gap_s: float = 2.5
    #: A worker that sends heartbeats and has a free slot, but has not asked for messages for this long, is stuck if
    #: messages wait.
    stuck_s: float = 10.0
    #: Longest time that a reader blocks in Redis (XREADGROUP BLOCK).
    block_s: float = 1.0
    #: A message becomes a dead letter when this many workers have died while running it.
    max_deaths: int = 3
    #: Whether each worker has a watchdog process (heart.py), which renews the lease while the worker's threads are
    #: starved, and proves the worker's death.
    heart: bool = True
    #: The isolated last attempt of a suspect message waits at most this long for other messages to end, and is isolated
    #: for at most that long.
    isolation_wait_s: float = 30.0
    isolation_run_s: float = 300.0
    #: Messages claimed in one round trip, at most, if prefetching has no limit.
    batch: int = 64
    #: Whether a worker claims more messages than it has free slots, as many as are likely to be run within a moment.
    #: Those that get no slot soon are requeued.
    claim_ahead: bool = False
    #: Acknowledgements are sent together: at the latest after this time, or when there are this many.
    ack_flush_s: float = 0.01
    ack_flush_count: int = 64
    #: How long the outcome of a tracked delivery is kept.
    outcome_ttl_s: float = 3600.0
    #: A message of more bytes than this, as stored in Redis, is refused (``MessageTooLarge``). With 0, no message is
    #: refused, and a warning is logged for messages of more than :data:`LARGE_BYTES`.
    max_message_bytes: int = 0
    #: First part of an incarnation's id, before ``:pid#N``; the host's name by default.
    node_name: str = ""
    #: Whether a monitor manager is expected to sweep; if so, a fallback sweep logs a warning.
    managed: bool = False
    #: Whether an expired message becomes a dead letter; otherwise it is only counted.
    dead_letter_expired: bool = False
    #: Names of fields whose values are hidden in logged errors and in ``inspect scheduled``.
    redact: tuple[str, ...] = USUAL
    #: Returns further fields for the heartbeat, which the packages above the transport know.
    describe: Callable[[], Mapping[str, str]] | None = None
    #: Death hooks: a sweep calls each with an ended incarnation and the reason. A hook does a bounded amount of work,
    #: and returns whether all is done; if not, the next sweep calls it again. It must be repeatable, for the last
    #: caller may have been killed. An error in one keeps none of the others from running.
    on_death: tuple[DeathHook, ...] = ()
    #: Called at the end of each sweep, also of a fallback sweep, to do what else is due.
    on_sweep: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{f.name}={getattr(self, f.name)!r}: allowed: a number above 0"
            for f in fields(self)
            if f.name not in _NOT_NUMBERS and not _positive(getattr(self, f.name))
        ]
        problems += [
            f"{name}={getattr(self, name)!r}: allowed: true, false"
            for name in ("heart", "managed", "dead_letter_expired", "claim_ahead")
            if getattr(self, name) not in (True, False)
        ]
        if not _are_names(self.redact):
            problems.append(f"redact={self.redact!r}: allowed: a list of names of fields")
        most = self.max_message_bytes
        if not is_whole_number(most, 0):
            problems.append(f"max_message_bytes={most!r}: allowed: a whole number of bytes; 0 for no limit")
        if not problems and not self.heartbeat_s < self.heartbeat_timeout_s < self.lease_s:
            problems.append(
                f"heartbeat_s={self.heartbeat_s} heartbeat_timeout_s={self.heartbeat_timeout_s} "
                f"lease_s={self.lease_s}: "
                "allowed: heartbeat_s < heartbeat_timeout_s < lease_s"
            )
        if not problems and not self.sweep_stale_s + 2 * self.heartbeat_s < self.sweep_gap_s:
            problems.append(
                f"sweep_stale_s={self.sweep_stale_s} heartbeat_s={self.heartbeat_s} sweep_gap_s={self.sweep_gap_s}: "
                "allowed: sweep_stale_s + 2 * heartbeat_s < sweep_gap_s, or every fallback sweep looks like a gap"
            )
        if not problems and not 2 * self.block_s < self.stuck_s:
            problems.append(
                f"block_s={self.block_s} stuck_s={self.stuck_s}: allowed: 2 * block_s < stuck_s, "
                "for a reader that sleeps is not stuck"
            )
        if problems:
            raise InvalidSettings(problems)

    @property
    def missed_s(self) -> float:
        """If a heartbeat is older than this, the living workers sweep at once.

        Half a heartbeat more than ``heartbeat_timeout_s``: by then most neighbours of the dead process have read how
        many processes the kernel has killed in their control group.
        """
        return self.heartbeat_timeout_s + self.heartbeat_s / 2

    def closed_after_ms(self, round_trip_ms: int, *, has_heart: bool) -> int:
        """Age of the last heartbeat, in ms, from which closed connections mean death: a living process reconnects.

        Slow round trips (a busy gevent hub, a proxy) prolong it. With a heart it is at least a whole heartbeat: a heart
        that is alive proves the death at once.
        """
        usual_ms = to_ms(self.heartbeat_s if has_heart else 0.4 * self.heartbeat_s)
        longest_ms = _LONGEST_MARGIN_WITH_HEART_MS if has_heart else _LONGEST_MARGIN_MS
        margin_ms = min(max(usual_ms, _ROUND_TRIPS_TO_CONNECT * round_trip_ms), longest_ms)
        return min(to_ms(self.heartbeat_timeout_s) + margin_ms, to_ms(self.lease_s))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def from_transport_options(cls, options: Mapping[str, Any]) -> Options:
        """Read this transport's settings from kombu's ``transport_options``; kombu's own options are ignored."""
        return cls(**{name: options[name] for name in cls.names() if options.get(name) is not None})


def _positive(value: object) -> bool:
    return is_number(value, 0) and value != 0


def _are_names(value: object) -> bool:
    return not isinstance(value, str) and isinstance(value, Iterable) and all(isinstance(name, str) for name in value)
