"""The transport's settings, as they come in Celery's ``broker_transport_options``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import InvalidSettings
from orchestrator.core.numbers import is_number, is_whole_number
from orchestrator.core.redact import USUAL

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

#: A script that moves a message of this many bytes holds Redis for about 80 ms.
LARGE_BYTES = 16 * 1024 * 1024

#: Connecting and the heartbeat after it take so many round trips; and so much longer than usual is waited at most.
_ROUND_TRIPS_TO_CONNECT = 6
_LONGEST_MARGIN_MS = 2000


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. The defaults bring a killed worker's messages back within 2 s.

    Raises:
        InvalidSettings: a value is out of range, or two do not fit together.
    """

    #: Between two heartbeats of one worker.
    heartbeat_s: float = 0.5
    #: A heartbeat older than this makes the sweep ask Redis whether the worker's connection is still open.
    heartbeat_timeout_s: float = 0.6
    #: Silence with an open connection (a stopped or hung process) is death only after this.
    lease_s: float = 10.0
    #: If nobody has swept for this long, any worker does in its place.
    sweep_stale_s: float = 0.5
    #: If nobody has swept for this long, silence proves nothing: the living get time to be heard first. Longer
    #: than it takes for somebody to stand in.
    sweep_gap_s: float = 2.5
    #: A worker that beats, has a free hand, and has asked for no message for this long is stuck if some wait.
    stuck_s: float = 10.0
    #: Longest time a reader sleeps in Redis.
    block_s: float = 1.0
    #: Deaths of workers that ran a message before it is a dead letter.
    max_deaths: int = 3
    #: Whether a watchdog process beside each worker (heart.py) renews its lease while its threads are starved, and
    #: proves its death.
    heart: bool = True
    #: A message's last chance waits at most this long for the worker to itself, and has it at most that long.
    isolation_wait_s: float = 30.0
    isolation_run_s: float = 300.0
    #: Most messages claimed in one round trip where prefetching has no limit.
    batch: int = 64
    #: Whether more messages are claimed than may be delivered, as many as are likely to be run within a moment; what is
    #: not goes back soon.
    claim_ahead: bool = False
    #: Acknowledgements wait for company at most this long, and at most so many of them.
    ack_flush_s: float = 0.01
    ack_flush_count: int = 64
    #: How long a tracked delivery's outcome can be asked for.
    outcome_ttl_s: float = 3600.0
    #: A message with more bytes than this, as it would lie in Redis, is refused (``MessageTooLarge``). 0: none is, and
    #: a warning is logged about those of more than :data:`LARGE_BYTES`.
    max_message_bytes: int = 0
    #: What an incarnation is called before ``:pid#N``; the host's name by default.
    node_name: str = ""
    #: Whether a monitor manager is meant to sweep, so that a sweep in place of it is worth a warning.
    managed: bool = False
    #: Whether a message that expires becomes a dead letter instead of a mere count.
    dead_letter_expired: bool = False
    #: Names of fields whose values are hidden where an error's text is logged, and in what ``inspect scheduled`` tells.
    redact: tuple[str, ...] = USUAL
    #: Further fields for the heartbeat, for whoever knows more about this worker than the transport does.
    describe: Callable[[], Mapping[str, str]] | None = None
    #: Called in a sweep with an incarnation that has ended, and why. It does a bounded amount of what that death
    #: entails, and says whether all of it is done; until then the next sweep calls again. Whoever called last may have
    #: been killed in the middle.
    on_death: Callable[[str, str], bool] | None = None
    #: Called at the end of each sweep, whoever sweeps, for what else is due.
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
        """A heartbeat older than this has those that live sweep at once.

        Half a heartbeat more than makes one late: by then most neighbours of whoever died have read how many processes
        the kernel has killed in their control group.
        """
        return self.heartbeat_timeout_s + self.heartbeat_s / 2

    def closed_after_ms(self, round_trip_ms: int, *, has_heart: bool) -> int:
        """Silence after which closed connections are a death: a process that lives would have connected again.

        The slower its round trips (a busy gevent hub, a proxy), the longer it is given. A heart has a whole heartbeat
        for it: if it still lives, it proves the death at once.
        """
        usual_ms = to_ms(self.heartbeat_s if has_heart else 0.4 * self.heartbeat_s)
        margin_ms = min(max(usual_ms, _ROUND_TRIPS_TO_CONNECT * round_trip_ms), _LONGEST_MARGIN_MS)
        return min(to_ms(self.heartbeat_timeout_s) + margin_ms, to_ms(self.lease_s))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def from_transport_options(cls, options: Mapping[str, Any]) -> Options:
        """Picks this transport's settings out of kombu's ``transport_options``; the others are kombu's own."""
        return cls(**{name: options[name] for name in cls.names() if options.get(name) is not None})


def _positive(value: object) -> bool:
    return is_number(value, 0) and value != 0


def _are_names(value: object) -> bool:
    return not isinstance(value, str) and isinstance(value, Iterable) and all(isinstance(name, str) for name in value)
