"""A client session: an owner of monitors that is not a worker, with its own lease."""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.deliveries.down import Down
from orchestrator.core.errors import BrokerUnavailable, OwnerGone
from orchestrator.core.log import get_logger
from orchestrator.monitors import commands
from orchestrator.telemetry import emit, events
from orchestrator.transport.liveness.fallback_sweeper import sweep_as_fallback
from orchestrator.transport.liveness.lease import Lease, asks_for_sweep
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.dataset import report_loss
from orchestrator.transport.redis.patience import outlast, sleep_on
from orchestrator.transport.store import Store
from orchestrator.worker.execution.owner import OpenSession, Owner, checked_wait

if TYPE_CHECKING:
    from orchestrator.monitors.monitors import Target
    from orchestrator.monitors.redis_monitors import RedisMonitors

logger = get_logger(__name__)

#: The first part of a session's id.
KIND = "session"

#: Seconds that closing waits for the thread to end, and again for its monitors to be removed.
_CLOSE_TIMEOUT_S = 5.0

#: The same at the end of the process, which must not wait long for a Redis that does not answer.
_EXIT_TIMEOUT_S = 1.0

#: Pause before the next heartbeat after one that Redis did not answer, or that went over a new connection.
_RETRY_PAUSE_S = 0.1


class RedisSession:
    """A lease in Redis that a thread renews while the session is open; when it is closed, all its monitors go.

    It is judged as workers are: gone when its process is, or when it was silent for a whole lease. ``with`` opens it,
    and makes it the owner of the monitors made in the block by the same thread; other threads use its own
    :meth:`monitor`. A process that ends without closing it closes it then, unless it is killed.
    """

    def __init__(self, monitors: RedisMonitors, store: Store) -> None:
        self._monitors = monitors
        self._store = store
        self._commands = CommandConnection(store.pool)
        self._sweeper = Sweeper(self._commands, store.keys, store.options, store.levels)
        self._lease = Lease(self._commands, store.keys, store.options, store.broker)
        self._last_ref: str = ""
        self._taking = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._block: OpenSession | None = None
        self._owner = Owner("")

    @property
    def id(self) -> str:
        """Its id among the incarnations; empty before it is opened."""
        return self._lease.incarnation

    @property
    def owner(self) -> Owner:
        """The session as an owner."""
        return self._owner

    def __enter__(self) -> RedisSession:
        """Take out the lease.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        host = socket.gethostname()
        node = f"{KIND}@{host}"
        fields = {"node": node, "kind": KIND, "pid": os.getpid(), "host": host, "queues": "[]", "agents": "[]"}
        try:
            self._lease.register(node, fields)
        except (RedisError, OSError) as error:
            self._commands.drop()
            raise self._store.failure(error) from error
        try:
            # Names its connection in its record before it owns anything: a kill is found by the end of that connection.
            self._beat()
        except (RedisError, OSError) as error:
            # It has a lease, and its thread repeats the heartbeat.
            self._lease.record_failure(error)
        self._thread = threading.Thread(target=self._live, name="orchestrator-session", daemon=True)
        self._thread.start()
        self._owner = Owner(self.id)
        atexit.register(self._close_at_exit)
        self._block = OpenSession(self.owner)
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        if self._block is not None:
            self._block.close()
            self._block = None
        self.close()

    def close(self) -> None:
        """End the lease and remove its monitors; if Redis cannot be reached, that happens when the lease runs out.

        In a forked child it does nothing: the session is the parent's.
        """
        if self._owner.is_inherited():
            return
        self._ended.set()
        atexit.unregister(self._close_at_exit)
        if self._thread is None:
            return
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)
        self._thread = None
        self._deregister(_CLOSE_TIMEOUT_S)

    def _close_at_exit(self) -> None:
        """Close it, so that nobody has to wait for the proof that this process has ended."""
        if self._owner.is_inherited() or self._thread is None:
            return
        self._ended.set()
        self._thread.join(timeout=_EXIT_TIMEOUT_S)
        if not self._thread.is_alive() and self._lease.away_since is None:
            self._deregister(_EXIT_TIMEOUT_S)

    def _deregister(self, wait_s: float) -> None:
        try:
            self._sweeper.retire(self.id, DeathReason.DRAINED)
            if self._monitors.clean_owner(self.id, monotonic() + wait_s):
                # The process that sweeps may be one without monitors.
                self._sweeper.run_death_hooks(self.id)
        except (RedisError, OSError, BrokerUnavailable) as away:
            logger.warning("could not deregister session %s; its lease will expire: %s", self.id, away)
        self._commands.drop()

    def monitor(self, target: Target, tag: Any = "") -> int:
        """Monitor a target on behalf of this session, from any thread. See :meth:`Monitors.monitor`.

        Raises:
            NoOwner: this process is a fork of the one that has opened it.
        """
        self._owner.refuse_fork("monitor")
        return self._monitors.monitor(target, tag, owner=self.owner)

    def next_down(self, timeout_s: float) -> Down | None:
        """The next DOWN, waited for up to ``timeout_s`` seconds, also while Redis is away; ``None`` if there is none.

        Each is returned once, also if a reply is lost with its connection.

        Raises:
            OwnerGone: the session is closed, or was declared dead (its process or Redis were stopped for longer than a
                lease), and no DOWN is left: its monitors are gone.
            NoOwner: this process is a fork of the one that has opened it.
            BrokerUnavailable: Redis did not answer when ``timeout_s`` seconds had passed.
        """
        self._owner.refuse_fork("DOWN")
        key = self._store.keys.downs(self.id)
        until = monotonic() + checked_wait(timeout_s)
        client: Any = self._store.client
        with self._taking:
            while True:
                alive, *text = outlast(until, lambda: self._monitors.run(*self._next_down()))
                if alive < 0:
                    continue
                if text:
                    down = Down.from_wire(json.loads(text[0]))
                    self._last_ref = str(down.ref)
                    return down
                if not alive:
                    raise OwnerGone(self.id)
                left = until - monotonic()
                if left <= 0:
                    return None
                try:
                    outlast(until, lambda: sleep_on(client, key, until))
                except RedisError as error:
                    raise self._store.failure(error) from error

    def _next_down(self) -> Call:
        return commands.next_down(self._store.keys, self.id, self._last_ref)

    # -- living

    def _live(self) -> None:
        while True:
            try:
                if not self._beat_and_sweep():
                    return
            except Exception:
                # Without a heartbeat it would be declared dead; no error may end it.
                logger.exception("heartbeat of session %s failed", self.id)
            pause_s = self._store.options.heartbeat_s if self._lease.is_regular else _RETRY_PAUSE_S
            if self._ended.wait(pause_s):
                return

    def _beat_and_sweep(self) -> bool:
        """Send a heartbeat, and sweep if a sweep is needed; returns whether the session has its lease still."""
        lease = self._lease
        try:
            reply = self._beat()
            if reply is None:
                self._on_lease_lost()
                return False
            since_sweep_ms, found = reply
            is_asked = asks_for_sweep(since_sweep_ms, found)
            if since_sweep_ms < 0:
                since_sweep_ms = lease.age_ms()
            if is_asked or since_sweep_ms > to_ms(self._store.options.sweep_stale_s):
                sweep_as_fallback(self._sweeper, self._store.options, self.id, since_sweep_ms)
            lease.record_reply()
        except (RedisError, OSError) as error:
            lease.record_failure(error)
        return True

    def _beat(self) -> tuple[int, int] | None:
        """Send one heartbeat; ``None`` if the lease is gone.

        Returns the ms since the last sweep (-1: none), and ``found``, the argument of :func:`asks_for_sweep`.
        """
        self._lease.name_connection()
        reply = self._lease.renew({"client": self._lease.client})
        return None if reply is None else (reply[0], reply[1])

    def _on_lease_lost(self) -> None:
        loss = self._lease.find_loss()
        if loss is not None:
            report_loss(loss, self._lease.dataset, self._store.broker.address, self.id)
            return
        logger.error(
            "session %s fenced: it was declared dead, but its process is alive; its monitors were removed", self.id
        )
        emit(events.AGENT_FENCED, incarnation=self.id)
