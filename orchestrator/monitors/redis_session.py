"""A client session: an owner of monitors that is no worker, with a lease of its own."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextvars import Token
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.death import DeathReason
from orchestrator.core.down import Down
from orchestrator.core.errors import BrokerUnavailable, OwnerGone
from orchestrator.core.log import get_logger
from orchestrator.monitors.owner import Owner, checked_wait, open_session
from orchestrator.telemetry import emit, events
from orchestrator.transport.liveness.heartbeat import death_hook_fields
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.dataset import Dataset, find_loss, identify, report_loss
from orchestrator.transport.redis.patience import outlast, sleep_on
from orchestrator.transport.store import Store

if TYPE_CHECKING:
    from orchestrator.monitors.monitors import Target
    from orchestrator.monitors.redis_monitors import RedisMonitors

logger = get_logger(__name__)

#: What sessions are called among the incarnations.
KIND = "session"

_FAREWELL_S = 5.0


class RedisSession:
    """A lease in Redis that a thread renews while the session is open; when it is closed, all its monitors go.

    It is judged as workers are: gone when its process is, or when it was silent for a whole lease. ``with`` opens it,
    and makes it the owner of the monitors made in the block by the same thread; other threads use its own
    :meth:`monitor`.
    """

    def __init__(self, monitors: RedisMonitors, store: Store) -> None:
        self._monitors = monitors
        self._store = store
        self._commands = CommandConnection(store.pool)
        self._sweeper = Sweeper(self._commands, store.keys, store.options, store.steps)
        self._id = ""
        self._dataset = Dataset("", 0, 0)
        self._arrived: str = ""
        self._taking = threading.Lock()
        self._ended = threading.Event()
        self._socket: Any = None
        self._client = ""
        self._thread: threading.Thread | None = None
        self._token: Token[Owner | None] | None = None

    @property
    def id(self) -> str:
        """Its name among the incarnations; empty before it is opened."""
        return self._id

    @property
    def owner(self) -> Owner:
        """It as an owner."""
        return Owner(self._id)

    def __enter__(self) -> RedisSession:
        """Take out the lease.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        k, host = self._store.keys, socket.gethostname()
        self._dataset = self._identify()
        fields = ["node", f"{KIND}@{host}", "kind", KIND, "pid", os.getpid(), "host", host]
        fields += ["queues", "[]", "agents", "[]", *death_hook_fields(self._store.options)]
        name = f"{KIND}@{host}:{os.getpid()}"
        numbers = self._store.broker.last_numbers
        args = [k.root, name, numbers.get(k.root, 0), *fields]
        raw, number = self._store.run("register", [k.leases, k.incarnation_counter], args)
        self._id, numbers[k.root] = raw.decode(), int(number)
        self._thread = threading.Thread(target=self._live, name="orchestrator-session", daemon=True)
        self._thread.start()
        self._token = open_session.set(self.owner)
        return self

    def _identify(self) -> Dataset:
        store = self._store
        known = identify(store.run, store.keys, store.broker.datasets.get(store.keys.root))
        store.broker.datasets[store.keys.root] = known
        return known

    def __exit__(self, *error: object) -> None:
        """Close it."""
        if self._token is not None:
            open_session.reset(self._token)
            self._token = None
        self.close()

    def close(self) -> None:
        """End the lease; all its monitors go. If Redis is away they go when the lease runs out."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join(timeout=_FAREWELL_S)
        self._thread = None
        try:
            self._sweeper.retire(self._id, DeathReason.DRAINED)
            if self._monitors.clean_owner(self._id, monotonic() + _FAREWELL_S):
                # Perhaps nobody who sweeps knows of monitors.
                self._sweeper.run_death_hooks(self._id)
        except (RedisError, OSError, BrokerUnavailable) as away:
            logger.warning("%s could not say goodbye (%s); its lease will run out", self._id, away)
        self._commands.drop()

    def monitor(self, target: Target, tag: Any = "") -> int:
        """Monitor a target on behalf of this session, from any thread. See :meth:`Monitors.monitor`."""
        return self._monitors.monitor(target, tag, owner=self.owner)

    def next_down(self, timeout_s: float) -> Down | None:
        """The next DOWN, waited for up to ``timeout_s`` seconds, also while Redis is away; ``None`` if there is none.

        Each is returned once, also when the answer is lost with a connection.

        Raises:
            OwnerGone: the session is closed, or was declared dead (its process or Redis were stopped for longer than a
                lease), and no DOWN is left: its monitors are gone.
            BrokerUnavailable: Redis did not answer when ``timeout_s`` seconds had passed.
        """
        key = self._store.keys.downs(self._id)
        until = monotonic() + checked_wait(timeout_s)
        client: Any = self._store.client
        with self._taking:
            while True:
                alive, *text = outlast(until, lambda: self._monitors.run("next_down", [key], self._asking()))
                if alive < 0:
                    continue
                if text:
                    down = Down.from_wire(json.loads(text[0]))
                    self._arrived = str(down.ref)
                    return down
                if not alive:
                    raise OwnerGone(self._id)
                left = until - monotonic()
                if left <= 0:
                    return None
                try:
                    outlast(until, lambda: sleep_on(client, key, until))
                except RedisError as error:
                    raise BrokerUnavailable(self._store.url, error) from error

    def _asking(self) -> list[str]:
        return [self._store.keys.root, self._id, self._arrived]

    # -- living

    def _live(self) -> None:
        o = self._store.options
        away = False
        began = monotonic()
        while True:
            try:
                since_ms = self._beat()
                if since_ms is None:
                    self._given_up(to_ms(monotonic() - began))
                    return
                if since_ms < 0:
                    since_ms = to_ms(monotonic() - began)
                if since_ms > to_ms(o.sweep_stale_s):
                    # Nobody else is there to find out who has died.
                    emit(events.SWEEP_STOOD_IN, {"stale_s": since_ms / 1000}, by=self._id)
                    self._sweeper.sweep(self._id)
                away = False
            except (RedisError, OSError) as error:
                if not away:
                    logger.warning("%s: no heartbeat: Redis is away (%s)", self._id, error)
                away = True
                self._socket = None
                self._commands.drop()
            except Exception:
                # Without a heartbeat it would be declared dead; no error may end it.
                logger.exception("heartbeat of %s failed", self._id)
            if self._ended.wait(0.1 if away else o.heartbeat_s):
                return

    def _given_up(self, age_ms: int) -> None:
        k, call = self._store.keys, self._commands.call
        loss = find_loss(call, k, self._dataset, self._id, age_ms)
        if loss is not None:
            report_loss(loss, self._dataset, self._store.broker.address, self._id)
            return
        logger.error("%s was declared dead while it was not; its monitors are gone", self._id)
        emit(events.AGENT_FENCED, incarnation=self._id)

    def _beat(self) -> int | None:
        """One heartbeat. Returns ms since the last sweep, -1 if there never was one; ``None`` once declared dead."""
        connection = self._commands.connection
        if getattr(connection, "_sock", None) is not self._socket or self._socket is None:
            name = quote(self._id, safe="@:#.-_")
            self._client = f"{self._commands.call('CLIENT', 'ID')} {name} {self._commands.server()}".rstrip()
            self._commands.call("CLIENT", "SETNAME", name)
            self._socket = self._commands.connection._sock
        k = self._store.keys
        alive, *since = self._commands.run(
            "heartbeat",
            [k.leases, k.incarnation(self._id), k.sweep, k.silent, k.oom("")],
            [self._id, "", "", to_ms(self._store.options.missed_s), "client", self._client],
        )
        if self._commands.connection._sock is not self._socket:
            self._socket = None
        return int(since[0]) if alive else None
