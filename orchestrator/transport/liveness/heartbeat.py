"""The heartbeat of a worker: what it reports to Redis when it renews its lease, and what the reply says."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.keys import Keys
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.heart_link import HeartLink
from orchestrator.transport.liveness.lease import Lease, asks_for_sweep
from orchestrator.transport.liveness.oom import OomCounter
from orchestrator.transport.liveness.poll_watchdog import PollWatchdog
from orchestrator.transport.liveness.timeout_overrides import ReadOverrides
from orchestrator.transport.liveness.worker_state import WORKER_STATE
from orchestrator.transport.options import Options
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.dataset import Loss, record_rewind, report_loss


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The reply to the heartbeat of an incarnation that has a lease."""

    #: Milliseconds since the last sweep, -1 if there never was one.
    since_sweep_ms: int
    #: Whether a death was proved, or a heartbeat is missed: somebody has to sweep at once.
    asks_for_sweep: bool
    #: Whether there are outcomes that Celery has not been told of.
    has_endings: bool = False


#: The slowest of this many heartbeats is reported as the time that a round trip takes.
_ROUND_TRIPS = 20


def _coarse_ms(seconds: float) -> int:
    """Milliseconds, rounded up to a power of two: changed values are sent, and small changes are not worth it."""
    return 1 << int(1000 * seconds).bit_length()


class Heartbeat:
    """The heartbeats of a worker's incarnation. Not for two threads at once."""

    def __init__(self, commands: CommandConnection, keys: Keys, options: Options, broker: Broker) -> None:
        self.lease = Lease(commands, keys, options, broker)
        #: When the broker was last asked for messages, by the monotonic clock.
        self.polled_at = monotonic()
        #: What Redis has lost, if that is why the incarnation has no lease any more.
        self.loss: Loss | None = None
        self.heart: HeartLink | None = None
        self._commands = commands
        self._keys = keys
        self._options = options
        self._broker = broker
        #: Milliseconds from registration to the last heartbeat that Redis has confirmed.
        self._confirmed_age_ms = 0
        self._host = socket.gethostname()
        self._poll_watchdog = PollWatchdog(options.heartbeat_s)
        #: The fields of the last heartbeat, and whether it said that the incarnation does not poll; ``None``: unknown.
        self._sent_fields: dict[str, str] = {}
        self._sent_not_polling: bool | None = False
        self._ooms = OomCounter()
        #: The count of OOM kills at the last two heartbeats.
        self._oom_counts = (self._ooms.read(),) * 2
        self._answered_at = monotonic()
        self._sweep_age_ms = -1
        #: Whether messages were cancelled while workers had them, at the last heartbeat.
        self.has_cancels = False
        self.overrides = ReadOverrides(keys)
        self._round_trips_s: deque[float] = deque(maxlen=_ROUND_TRIPS)

    @property
    def incarnation(self) -> str:
        """The incarnation's id; empty before it is registered."""
        return self.lease.incarnation

    def register(self) -> int:
        """Begin a new incarnation; returns its fencing token.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        name = self._options.node_name or self._host
        fields: dict[str, Any] = {"node": name, "pid": os.getpid(), "host": self._host, "queues": "[]"}
        # Its scripts begin the steps that depend on one whose outcome they record.
        fields["releases_steps"] = "1"
        # They count the votes whose outcomes they record.
        fields["counts_votes"] = "1"
        if self._ooms.group and self._oom_counts[1] is not None:
            fields |= {"oom_group": self._ooms.group, "oom_kills": self._oom_counts[1]}
        self.lease.register(name, fields)
        self.heart = HeartLink(self._keys, self._options, self.incarnation, self._ooms.file)
        return self.lease.number

    def stop_heart(self) -> None:
        """End the watchdog process: this incarnation has ended. From any thread; a heartbeat may be under way."""
        if self.heart is not None:
            self.heart.stop()

    def sent_field(self, name: str) -> str:
        """The value that the last heartbeat had for this field; empty if it had none."""
        return self._sent_fields.get(name, "")

    def beat(
        self, held: Collection[Claim], queues: Collection[str], should_poll: Callable[[], bool]
    ) -> HeartbeatReply | None:
        """Renew the lease, and report what has changed.

        Returns:
            ``None`` if this incarnation has no lease any more.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        began = monotonic()
        age_ms = self.lease.age_ms()
        if self.heart is not None:
            self.heart.report_alive()
        self._name_connection()
        ooms = self._ooms.read()
        self._oom_counts = (self._oom_counts[1], ooms)
        fields = self._fields(held, queues)
        changed = {name: value for name, value in fields.items() if self._sent_fields.get(name) != value}
        not_polling = self._poll_watchdog.not_polling_s > self._options.stuck_s
        reply = self.lease.renew(
            {"age_ms": age_ms, **changed},
            oom_group=self._ooms.group,
            oom_kills=None if ooms == self._oom_counts[0] else ooms,
            not_polling=None if not_polling is self._sent_not_polling else not_polling,
            with_endings=True,
        )
        self._sent_fields, self._sent_not_polling = fields, not_polling
        self._answered_at = monotonic()
        self._round_trips_s.append(self._answered_at - began)
        self._poll_watchdog.after_heartbeat(self._answered_at, self.polled_at, should_poll())
        if reply is None:
            self.loss = self._find_loss()
            return None
        since_sweep_ms, found, now_ms, known_age_ms, endings, cancels, overrides = reply
        self.has_cancels = bool(cancels)
        self._notice_rewind(now_ms, known_age_ms, age_ms)
        self._sweep_age_ms = since_sweep_ms
        self.overrides.after_heartbeat(overrides, now_ms, self._commands.call)
        return HeartbeatReply(since_sweep_ms, asks_for_sweep(since_sweep_ms, found), bool(endings))

    def _find_loss(self) -> Loss | None:
        loss = self.lease.find_loss()
        if loss is not None and loss.kind == "rewound":
            record_rewind(self._commands.call, self._keys, loss)
        return loss

    def _notice_rewind(self, now_ms: int, known_age_ms: int, age_ms: int) -> None:
        """Compare the last heartbeat in Redis with the last one it confirmed; an older one means that data was lost."""
        lost_ms, self._confirmed_age_ms = self._confirmed_age_ms - known_age_ms, age_ms
        if lost_ms <= 0:
            return
        # What was reported in that time is reported again.
        self._sent_fields, self._sent_not_polling = {}, None
        loss = Loss("rewound", now_ms, lost_ms=lost_ms)
        record_rewind(self._commands.call, self._keys, loss)
        report_loss(loss, self.lease.dataset, self._broker.address, self.incarnation)

    def _name_connection(self) -> None:
        if self.lease.name_connection() and self.heart is not None:
            self.heart.follow(self._commands.connection, self.lease.connection_name, self._commands.server())

    def _fields(self, held: Collection[Claim], queues: Collection[str]) -> dict[str, str]:
        now = monotonic()
        running = [claim.started_at for claim in held if claim.started_at is not None]
        fields = {
            "client": self.lease.client,
            "queues": json.dumps(sorted(queues)),
            "held": str(len(held)),
            "running": str(len(running)),
            "oldest_running_s": f"{now - min(running):.1f}" if running else "0",
            "last_poll_s": f"{now - self.polled_at:.1f}",
            "not_polling_s": f"{self._poll_watchdog.not_polling_s:.1f}",
            "host_load": f"{os.getloadavg()[0]:.2f}",
            "round_trip_ms": str(_coarse_ms(max(self._round_trips_s, default=0.0))),
            "stopping": str(int(WORKER_STATE.is_stopping())),
        }
        if self._oom_counts[1] is not None:
            fields["oom_kills"] = str(self._oom_counts[1])
        if self._options.describe is not None:
            fields.update(self._options.describe())
        return fields

    def child_died(self) -> DeathReason:
        """The reason why a pool process was killed just now: an OOM kill if the kernel's count of them has risen."""
        now, before = self._ooms.read(), self._oom_counts[0]
        return DeathReason.OOM if now is not None and before is not None and now > before else DeathReason.KILLED

    def vital_signs(self) -> dict[str, Any]:
        """Names and values for ``orchestrator health``."""
        age_s, dataset = monotonic() - self._answered_at, self.lease.dataset
        return {
            "incarnation": self.incarnation,
            "dataset": {"id": dataset.id, "born_ms": dataset.born_ms, "epoch": dataset.epoch},
            "away": self.lease.away_since is not None,
            "beat_age_s": age_s,
            "not_polling_s": self._poll_watchdog.not_polling_s,
            "sweep_age_s": None if self._sweep_age_ms < 0 else age_s + self._sweep_age_ms / 1000,
            "stuck_s": self._options.stuck_s,
            "sweep_stale_s": self._options.sweep_stale_s,
        }
