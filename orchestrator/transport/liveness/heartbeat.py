"""The heartbeat: what an incarnation reports to Redis, and what it learns from the reply."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import quote

from orchestrator.core.clock import to_ms
from orchestrator.core.death import DeathReason
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.heart_link import HeartLink
from orchestrator.transport.liveness.oom import OomCounter
from orchestrator.transport.liveness.poll_watchdog import PollWatchdog
from orchestrator.transport.liveness.worker_state import WORKER_STATE
from orchestrator.transport.options import Options
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.dataset import Dataset, Loss, find_loss, identify, record_rewind, report_loss

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The reply to the heartbeat of an incarnation that has a lease."""

    #: Milliseconds since the last sweep, -1 if there never was one.
    since_sweep_ms: int
    #: Whether some incarnation's heartbeat is missed.
    somebody_missed: bool
    #: Whether there are endings that Celery has not been told of.
    has_endings: bool = False


#: Of the last so many heartbeats the slowest says how long Redis may take to hear of this worker.
_ROUND_TRIPS = 20


def _coarse_ms(seconds: float) -> int:
    """Rounded up to a power of two: it is sent when it changes, and then it is to have changed."""
    return 1 << int(1000 * seconds).bit_length()


def death_hook_fields(options: Options) -> tuple[str, ...]:
    """The field that an incarnation has if its death entails more than requeueing its messages (see reclaim.lua)."""
    return () if options.on_death is None else ("on_death", "1")


class Heartbeat:
    """The heartbeats of one incarnation. Not for two threads at once."""

    def __init__(self, wire: CommandConnection, keys: Keys, options: Options, broker: Broker) -> None:
        self.incarnation = ""
        #: When the broker was last asked for messages, by the monotonic clock.
        self.polled_at = monotonic()
        #: Since when Redis has not answered.
        self.away_since: float | None = None
        self._commands = wire
        self._keys = keys
        self._options = options
        self._broker = broker
        #: The data set in which it is registered, and since when.
        self.dataset = Dataset("", 0, 0)
        self._registered_at = monotonic()
        #: What Redis has lost, if that is why the incarnation has no lease any more.
        self.loss: Loss | None = None
        #: Milliseconds from registration to the last heartbeat that Redis has confirmed.
        self._confirmed_age_ms = 0
        self._host = socket.gethostname()
        self._socket: Any = None
        self._client = ""
        self._polling = PollWatchdog(options.heartbeat_s)
        self._said: dict[str, str] = {}
        self._said_silent = False
        self._ooms = OomCounter()
        #: The count of OOM kills at the last two heartbeats.
        self._oom_counts = (self._ooms.read(),) * 2
        self._answered_at = monotonic()
        self._sweep_age_ms = -1
        self._round_trips_s: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self.heart: HeartLink | None = None

    def register(self) -> int:
        """Begin a new incarnation; returns its fencing token.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        k, name = self._keys, self._options.node_name or self._host
        self.dataset = identify(self._commands.run, k, self._broker.datasets.get(k.root))
        fields = [
            "node",
            name,
            "pid",
            os.getpid(),
            "host",
            self._host,
            "queues",
            "[]",
            *death_hook_fields(self._options),
        ]
        if self._ooms.group and self._oom_counts[1] is not None:
            fields += ["oom_group", self._ooms.group, "oom_kills", self._oom_counts[1]]
        args = [k.root, f"{name}:{os.getpid()}", self._broker.last_numbers.get(k.root, 0), *fields]
        raw, token = self._commands.run("register", [k.leases, k.incarnation_counter], args)
        self.incarnation = raw.decode()
        self._broker.datasets[k.root] = self.dataset
        self._broker.last_numbers[k.root] = int(token)
        self._registered_at = monotonic()
        self.heart = HeartLink(k, self._options, self.incarnation, self._ooms.file)
        return int(token)

    def part(self) -> None:
        """End the watchdog process: this incarnation has ended. From any thread, a heartbeat may be under way."""
        if self.heart is not None:
            self.heart.stop()

    @property
    def is_regular(self) -> bool:
        """Whether the next one may wait for its time: the last was answered, on a connection that is known."""
        return self.away_since is None and self._socket is not None

    def said(self, field: str) -> str:
        """What the last one said of this."""
        return self._said.get(field, "")

    def beat(
        self, held: Collection[Claim], queues: Collection[str], should_poll: Callable[[], bool]
    ) -> HeartbeatReply | None:
        """Tell Redis.

        Returns:
            ``None`` if this incarnation was given up.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        began = monotonic()
        age_ms = to_ms(began - self._registered_at)
        if self.heart is not None:
            self.heart.report_alive()
        self._name_the_connection()
        k, ooms = self._keys, self._ooms.read()
        self._oom_counts = (self._oom_counts[1], ooms)
        fields = self._fields(held, queues)
        changed = {name: value for name, value in fields.items() if self._said.get(name) != value}
        silent = self._polling.silent_s > self._options.stuck_s
        alive, *told = self._commands.run(
            "heartbeat",
            [
                k.leases,
                k.incarnation(self.incarnation),
                k.sweep,
                k.silent,
                k.oom(self._ooms.group),
                k.endings,
                k.endings_dropped,
            ],
            [
                self.incarnation,
                "" if ooms is None or ooms == self._oom_counts[0] else ooms,
                "" if silent is self._said_silent else str(int(silent)),
                to_ms(self._options.missed_s),
                "age_ms",
                age_ms,
                *(part for pair in changed.items() for part in pair),
            ],
        )
        self._said, self._said_silent = fields, silent
        self._answered_at = monotonic()
        self._round_trips_s.append(self._answered_at - began)
        self._polling.after_heartbeat(self._answered_at, self.polled_at, should_poll())
        if self._commands.connection._sock is not self._socket:
            # Repaired on the way: what we have just said of our connection is no longer true.
            self._socket = None
        if not alive:
            self.loss = self._find_loss()
            return None
        self._notice_rewind(int(told[2]), int(told[3]), age_ms)
        self._sweep_age_ms = int(told[0])
        return HeartbeatReply(self._sweep_age_ms, bool(told[1]), bool(told[4]))

    def _find_loss(self) -> Loss | None:
        age_ms = to_ms(monotonic() - self._registered_at)
        loss = find_loss(self._commands.call, self._keys, self.dataset, self.incarnation, age_ms)
        if loss is not None and loss.kind == "rewound":
            record_rewind(self._commands.call, self._keys, loss)
        return loss

    def _notice_rewind(self, now_ms: int, known_age_ms: int, age_ms: int) -> None:
        """Compare the last heartbeat that Redis has with the last one that it confirmed, by this process' clock."""
        lost_ms, self._confirmed_age_ms = self._confirmed_age_ms - known_age_ms, age_ms
        if lost_ms <= 0:
            return
        loss = Loss("rewound", now_ms, lost_ms=lost_ms)
        record_rewind(self._commands.call, self._keys, loss)
        report_loss(loss, self.dataset, self._broker.address, self.incarnation)

    def _name_the_connection(self) -> None:
        # The socket, not the object: redis-py opens a broken connection again as the same object.
        if self._socket is not None and getattr(self._commands.connection, "_sock", None) is self._socket:
            return
        name = quote(self.incarnation, safe="@:#.-_")  # Redis allows no blanks and no accents in a client's name.
        ident = self._commands.call("CLIENT", "ID")
        asked_on = self._commands.connection._sock
        self._commands.call("CLIENT", "SETNAME", name)
        self._client = f"{ident} {name} {self._commands.server()}".rstrip()
        # Repaired on the way, it is another one.
        self._socket = asked_on if asked_on is self._commands.connection._sock else None
        if self._socket is not None and self.heart is not None:
            self.heart.follow(self._commands.connection, name, self._commands.server())

    def _fields(self, held: Collection[Claim], queues: Collection[str]) -> dict[str, str]:
        now = monotonic()
        running = [claim.started_at for claim in held if claim.started_at is not None]
        fields = {
            "client": self._client,
            "queues": json.dumps(sorted(queues)),
            "held": str(len(held)),
            "running": str(len(running)),
            "oldest_running_s": f"{now - min(running):.1f}" if running else "0",
            "last_poll_s": f"{now - self.polled_at:.1f}",
            "silent_s": f"{self._polling.silent_s:.1f}",
            "host_load": f"{os.getloadavg()[0]:.2f}",
            "round_trip_ms": str(_coarse_ms(max(self._round_trips_s, default=0.0))),
            "stopping": str(int(WORKER_STATE.is_stopping())),
        }
        if self._oom_counts[1] is not None:
            fields["oom_kills"] = str(self._oom_counts[1])
        if self._options.describe is not None:
            fields.update(self._options.describe())
        return fields

    def answered_again(self) -> bool:
        """Take note that Redis answers; whether it had been away."""
        if self.away_since is None:
            return False
        logger.warning("heartbeats reach Redis again after %.1f s", monotonic() - self.away_since)
        self.away_since = None
        return True

    def unanswered(self, error: Exception) -> None:
        """Take note that Redis does not answer; the next one is on a new connection."""
        if self.away_since is None:
            self.away_since = monotonic()
            logger.warning("no heartbeat: Redis is away (%s)", error)
        self._socket = None
        self._commands.drop()

    def child_died(self) -> DeathReason:
        """Why a process of the pool was killed just now: the kernel's count tells an OOM kill from another."""
        now, before = self._ooms.read(), self._oom_counts[0]
        return DeathReason.OOM if now is not None and before is not None and now > before else DeathReason.KILLED

    def vital_signs(self) -> dict[str, Any]:
        """What ``orchestrator health`` is told."""
        age_s = monotonic() - self._answered_at
        return {
            "incarnation": self.incarnation,
            "dataset": {"id": self.dataset.id, "born_ms": self.dataset.born_ms, "epoch": self.dataset.epoch},
            "away": self.away_since is not None,
            "beat_age_s": age_s,
            "silent_s": self._polling.silent_s,
            "sweep_age_s": None if self._sweep_age_ms < 0 else age_s + self._sweep_age_ms / 1000,
            "stuck_s": self._options.stuck_s,
            "sweep_stale_s": self._options.sweep_stale_s,
        }
