"""The incarnation: one run of one process that holds messages, with its lease, its heartbeat and its outbox.

It outlives the kombu connection. When Celery reconnects, messages that are being executed stay this process',
and their acknowledgements count; only what was not started goes back.

The mark of execution is the delivery counter in the stream's pending list: 1 when claimed, 2 once a pool has
started on it. A death blames only the entries at 2.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol
from urllib.parse import quote

from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import GROUP, Keys
from orchestrator.telemetry import emit, events
from orchestrator.transport.options import Options
from orchestrator.transport.outbox import Outbox
from orchestrator.transport.sweep import Sweeper
from orchestrator.transport.wire import Pool, Wire

logger = logging.getLogger(__name__)

#: Longest time a stopping process waits for its last acknowledgements to be confirmed.
_FAREWELL_S = 5.0

#: How long an incarnation without a consumer waits for another one.
_LINGER_S = 5.0

#: How often Redis' idea of what we hold is compared with ours.
_COMPARE_EVERY_S = 5.0

#: How often a worker that stands in sweeps, once it does.
_STAND_IN_EVERY_S = 0.9

#: A sweep this much younger than our own last one was somebody else's.
_SOMEBODY_ELSE_MS = 200

#: Between two warnings that the monitor manager does not sweep.
_WARN_EVERY_S = 30.0


@dataclass(slots=True)
class Claim:
    """A message this process holds."""

    tag: str
    entry: str
    stream: str
    queue: str
    deaths: int
    started_at: float | None = None
    #: Whether a pool has it that cannot be asked to give it back.
    handed: bool = False


class User(Protocol):
    """A channel that consumes on behalf of a holder."""

    def on_fenced(self) -> None: ...


class Holder:
    """This process as the holder of messages of one broker."""

    def __init__(self, pool: Pool, keys: Keys, options: Options, steps: Sequence[str]) -> None:
        self.keys = keys
        self.options = options
        self.fenced = False
        self.left = False
        self.token = 0
        self.held: dict[str, Claim] = {}
        self.queues: set[str] = set()
        self._pool = pool
        self._steps = tuple(steps)
        self._users: set[User] = set()
        self._lock = threading.RLock()
        self._wire = Wire(pool)
        self._socket: Any = None
        self._client = ""
        self._last_poll = monotonic()
        self._registered_at = monotonic()
        self._warned_at = float("-inf")
        self._swept_at: float | None = None
        self._idle_since = monotonic()
        self._compared_at = monotonic()
        self._stop = threading.Event()
        self._sweeper = Sweeper(Wire(pool), keys, options, steps)
        self.id = self._register()
        self.outbox = Outbox(pool, flush_s=options.ack_flush_s, flush_count=int(options.ack_flush_count), group=GROUP)
        self._thread = threading.Thread(target=self._live, name="orchestrator-heartbeat", daemon=True)
        self._thread.start()
        atexit.register(self.leave)

    # -- joining and leaving

    def _register(self) -> str:
        k = self.keys
        host = socket.gethostname()
        node = f"{self.options.node_name or host}:{os.getpid()}"
        fields = ["node", self.options.node_name or host, "pid", os.getpid(), "host", host, "queues", "[]"]
        raw, self.token = self._wire.run("register", [k.leases, k.incarnation_counter], [k.root, node, *fields])
        name: str = raw.decode()
        logger.info("incarnation %s", name)
        emit(events.AGENT_UP, incarnation=name)
        return name

    def attach(self, user: User, queue: str) -> None:
        """``user`` is about to claim from ``queue``; a death from now on finds what is claimed there."""
        with self._lock:
            self._users.add(user)
            if queue not in self.queues:
                self.queues.add(queue)
                # Before the first claim: the sweep looks for our messages in the queues named here.
                self._beat()

    def detach(self, user: User) -> None:
        """``user`` claims no more.

        The incarnation lives on for a while: after a lost connection Celery comes back with a new channel. If
        nobody does, or the process ends, it leaves.
        """
        with self._lock:
            self._users.discard(user)
            self._idle_since = monotonic()

    def leave(self) -> None:
        """End the incarnation: confirm what is done, give back what is not. Nobody is blamed for it."""
        with self._lock:
            if self.left:
                return
            self.left = True
        self._stop.set()
        atexit.unregister(self.leave)
        self.outbox.close(wait_s=_FAREWELL_S)
        if not self.fenced:
            try:
                self._sweeper.retire(self.id, "drained")
            except (RedisError, OSError) as error:
                logger.warning("%s could not say goodbye (%s); its lease will run out", self.id, error)
        if threading.current_thread() is not self._thread:
            # The thread may be in the middle of a heartbeat on these connections.
            self._thread.join(timeout=_FAREWELL_S)
        self._pool.disconnect()

    # -- holding messages

    def claimed(self, claim: Claim) -> None:
        """Redis has given us a message."""
        self.held[claim.tag] = claim

    def polled(self) -> None:
        """The broker was asked for messages just now."""
        self._last_poll = monotonic()

    def started(self, tag: str) -> None:
        """A pool starts on this message: from now on a death is on its account."""
        claim = self.held.get(tag)
        if claim is None:
            return
        claim.started_at = monotonic()
        self.outbox.command("XCLAIM", claim.stream, GROUP, self.id, 0, claim.entry, "RETRYCOUNT", 2, "JUSTID")

    def take(self, tag: str) -> Claim | None:
        """Let go of a message in order to settle it; ``None`` if it was settled before."""
        return self.held.pop(tag, None)

    def settle(self, tag: str, outcome: str = "handled") -> None:
        """End a delivery; only the count remains."""
        claim = self.take(tag)
        if claim is not None:
            self.outbox.ack(claim.stream, self.keys.ledger(claim.queue), outcome, claim.entry)

    def give_back(self, tags: Iterable[str], *, death: str = "") -> None:
        """Return messages to the head of their queues; with ``death``, a process died of them."""
        by_stream: dict[tuple[str, str], list[str]] = {}
        for tag in tags:
            claim = self.take(tag)
            if claim is not None:
                by_stream.setdefault((claim.stream, claim.queue), []).append(claim.entry)
        for (stream, queue), entries in by_stream.items():
            args = [*self._giveback_args(queue, death), *entries]
            self.outbox.post("giveback_held", [stream], args, functools.partial(_tell, queue))

    def take_back_unanswered(self, idle_s: float) -> None:
        """Give back what Redis says we hold and we know nothing of: the answer to a claim that never arrived.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        streams = [self.keys.step(queue, step) for queue in self.queues for step in self._steps]
        with self._lock:
            answer = self._wire.run("unanswered", streams, [GROUP, self.id, to_ms(idle_s)])
        unknown = [
            (streams[index - 1], entry.decode())
            for index, entry in zip(answer[::2], answer[1::2], strict=True)
            if f"{entry.decode()}@{streams[index - 1]}" not in self.held
        ]
        # What was settled a moment ago is not in `held` either; once that is confirmed, it is not pending any more.
        if not unknown or not self.outbox.flush(wait_s=_FAREWELL_S):
            return
        for stream, entry in unknown:
            queue = stream.removeprefix(f"{self.keys.root}q:").split(":", 1)[1]
            with self._lock:
                (said,) = self._wire.run("giveback_held", [stream], [*self._giveback_args(queue, ""), entry])
            if said == b"returned":
                logger.warning("%s: a claim was never answered; message %s goes back", self.id, entry)

    def _giveback_args(self, queue: str, death: str) -> list[Any]:
        o = self.options
        return [self.keys.root, queue, GROUP, int(o.max_deaths), to_ms(o.outcome_ttl_s), death, self.id]

    # -- living

    def _fields(self) -> list[str]:
        now = monotonic()
        running = [c.started_at for c in list(self.held.values()) if c.started_at is not None]
        fields = {
            "client": self._client,
            "queues": json.dumps(sorted(self.queues)),
            "held": str(len(self.held)),
            "running": str(len(running)),
            "oldest_running_s": f"{now - min(running):.1f}" if running else "0",
            "last_poll_s": f"{now - self._last_poll:.1f}",
        }
        if self.options.describe is not None:
            fields.update(self.options.describe())
        return [part for pair in fields.items() for part in pair]

    def _beat(self) -> int:
        """One heartbeat. Returns ms since the last sweep, -1 if there never was one."""
        with self._lock:
            connection = self._wire.connection
            # The socket, not the object: redis-py opens a broken connection again as the same object.
            if getattr(connection, "_sock", None) is not self._socket or self._socket is None:
                name = quote(self.id, safe="@:#.-_")  # Redis allows no blanks and no accents in a client's name.
                self._client = f"{self._wire.call('CLIENT', 'ID')} {name}"
                self._wire.call("CLIENT", "SETNAME", name)
                self._socket = self._wire.connection._sock
            k = self.keys
            alive, *swept = self._wire.run(
                "heartbeat", [k.leases, k.incarnation(self.id), k.sweep], [self.id, *self._fields()]
            )
            if self._wire.connection._sock is not self._socket:
                # Repaired on the way: what we have just said of our connection is no longer true.
                self._socket = None
        if alive:
            return int(swept[0])
        if not self.fenced and not self.left:
            self._on_fenced()
        return 0

    def _on_fenced(self) -> None:
        self.fenced = True
        logger.error("%s was declared dead while it was not; it stops, and this process begins anew", self.id)
        emit(events.AGENT_FENCED, incarnation=self.id)
        for user in tuple(self._users):
            user.on_fenced()

    def _live(self) -> None:
        away_since: float | None = None
        while not self._stop.wait(self.options.heartbeat_s if away_since is None and self._socket else 0.1):
            if not self._users and not self.held and monotonic() - self._idle_since > _LINGER_S:
                self.leave()
                return
            if self.fenced:
                continue
            try:
                since_ms = self._beat()
                if away_since is not None:
                    logger.warning("heartbeats reach Redis again after %.1f s", monotonic() - away_since)
                    away_since = None
                if monotonic() - self._compared_at > _COMPARE_EVERY_S:
                    self._compared_at = monotonic()
                    self.take_back_unanswered(2 * _COMPARE_EVERY_S)
                if not self.fenced and self._must_sweep(since_ms):
                    self._stand_in(since_ms)
            except (RedisError, OSError) as error:
                if away_since is None:
                    away_since = monotonic()
                    logger.warning("no heartbeat: Redis is away (%s)", error)
                with self._lock:
                    self._socket = None
                    self._wire.drop()
            except Exception:
                # Without a heartbeat this worker would be declared dead; no error may end it.
                logger.exception("heartbeat failed")

    def _must_sweep(self, since_ms: int) -> bool:
        """Whether to sweep in the place of whoever should: once that is overdue, and then until somebody else does."""
        if since_ms < 0:
            # Nobody ever has; give whoever should the time to start.
            since_ms = to_ms(monotonic() - self._registered_at)
        if since_ms > to_ms(self.options.sweep_stale_s):
            return True
        if self._swept_at is None:
            return False
        if since_ms < to_ms(monotonic() - self._swept_at) - _SOMEBODY_ELSE_MS:
            self._swept_at = None
            return False
        return since_ms > to_ms(_STAND_IN_EVERY_S)

    def _stand_in(self, since_ms: int) -> None:
        emit(events.SWEEP_STOOD_IN, {"stale_s": since_ms / 1000}, by=self.id)
        if self.options.managed and monotonic() - self._warned_at > _WARN_EVERY_S:
            self._warned_at = monotonic()
            how_long = f"no sweep for {since_ms / 1000:.1f} s" if since_ms >= 0 else "no sweep yet"
            logger.warning("%s: are beat and the monitor manager running? %s sweeps in its place", how_long, self.id)
        if not self._sweeper.sweep(self.id).stood_back:
            self._swept_at = monotonic()


def _tell(queue: str, said: list[bytes]) -> None:
    for _ in range(said.count(b"poison")):
        logger.warning("dead letter in %s: poison: a message has killed too many processes", queue)


class Holders:
    """The holders of this process, one per broker.

    A process is one holder however many connections it opens, so this is the one thing here that lives as
    long as the process. A forked child starts with none.
    """

    def __init__(self) -> None:
        self._by_broker: dict[tuple[int, str], Holder] = {}
        self._lock = threading.Lock()

    def get(self, broker: str, make: Callable[[], Holder]) -> Holder:
        """The holder for this broker; made if there is none, or the last one has left or was fenced."""
        key = (os.getpid(), broker)
        with self._lock:
            holder = self._by_broker.get(key)
            if holder is None or holder.left or holder.fenced:
                holder = self._by_broker[key] = make()
            return holder

    def leave_all(self) -> None:
        """Every incarnation of this process leaves, now rather than when the process ends."""
        for (pid, _), holder in list(self._by_broker.items()):
            if pid == os.getpid():
                holder.leave()


HOLDERS = Holders()
