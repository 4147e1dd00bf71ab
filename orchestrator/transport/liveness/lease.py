"""The lease of a worker or a session: its entry in ``orc:leases``, and the heartbeats that renew it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import monotonic
from typing import Any
from urllib.parse import quote

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.redis_refusals import describe_outage
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.dataset import Dataset, Loss, find_loss, identify

logger = get_logger(__name__)

#: In the reply to a heartbeat: another process has missed a heartbeat; a death was proved, with no sweep since.
MISSED, PROVED = 1, 2

#: Least time between two sweeps while a heartbeat is missed, whichever process sweeps. A process that is only stopped
#: causes no more sweeps than that until its lease expires.
_MISSED_EVERY_MS = 250


def asks_for_sweep(since_sweep_ms: int, found: int) -> bool:
    """Whether a reply to a heartbeat asks for a sweep at once.

    A proved death asks for one sweep, so this sweep need not wait until some time after the last one.
    """
    return found == PROVED or (found == MISSED and not 0 <= since_sweep_ms <= _MISSED_EVERY_MS)


class Lease:
    """The lease of one incarnation. Not for two threads at once."""

    def __init__(self, connection: CommandConnection, keys: Keys, options: Options, broker: Broker) -> None:
        #: The incarnation's id, and its number, which is its fencing token. Empty and 0 before it is registered.
        self.incarnation = ""
        self.number = 0
        #: The data set in which it is registered.
        self.dataset = Dataset("", 0, 0)
        #: Since when Redis does not answer, by the monotonic clock.
        self.away_since: float | None = None
        #: How a sweep finds the heartbeat's connection: its id, its name, and the run of the server. '' if not known.
        self.client = ""
        self._commands = connection
        self._keys = keys
        self._options = options
        self._broker = broker
        self._registered_at = monotonic()
        self._socket: Any = None

    def register(self, node: str, fields: Mapping[str, Any]) -> None:
        """Take out the lease for a new incarnation of ``node``, with these fields in its record.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        k, broker = self._keys, self._broker
        self.dataset = identify(self._commands.run, k, broker.datasets.get(k.root))
        if self._options.on_death:
            # Its death means more than requeueing its messages (see reclaim.lua).
            fields = {**fields, "on_death": "1"}
        last = broker.last_numbers.get(k.root, 0)
        raw, number = self._commands.run(*commands.register(k, f"{node}:{os.getpid()}", fields, last=last))
        self.incarnation, self.number = raw.decode(), int(number)
        broker.datasets[k.root] = self.dataset
        broker.last_numbers[k.root] = self.number
        self._registered_at = monotonic()

    def age_ms(self) -> int:
        """Milliseconds since it was registered."""
        return to_ms(monotonic() - self._registered_at)

    @property
    def is_regular(self) -> bool:
        """Whether the next heartbeat may wait for its time: Redis has answered the last one, on a named connection."""
        return self.away_since is None and self._socket is not None

    def name_connection(self) -> bool:
        """Give the connection the incarnation's name, if it is a new one; returns whether it was.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        # The socket, not the object: redis-py opens a broken connection again as the same object.
        if self._socket is not None and getattr(self._commands.connection, "_sock", None) is self._socket:
            return False
        connection_id = self._commands.call("CLIENT", "ID")
        asked_on = self._commands.connection._sock
        self._commands.call("CLIENT", "SETNAME", self.connection_name)
        server = self._commands.server()
        # If it was opened again meanwhile, the id is another connection's, of another run of the server perhaps.
        self._socket = asked_on if asked_on is self._commands.connection._sock else None
        self.client = f"{connection_id} {self.connection_name} {server}".rstrip() if self._socket is not None else ""
        return self._socket is not None

    @property
    def connection_name(self) -> str:
        """The connection's name in Redis, which allows neither blanks nor accents there."""
        return quote(self.incarnation, safe="@:#.-_")

    def renew(
        self,
        fields: Mapping[str, Any],
        *,
        oom_group: str = "",
        oom_kills: int | None = None,
        not_polling: bool | None = None,
        with_endings: bool = False,
    ) -> list[int] | None:
        """Send one heartbeat, which enters fields in the incarnation's record.

        Args:
            fields: what has changed in the record.
            oom_group: the process' control group.
            oom_kills: its count of OOM kills, if that has changed.
            not_polling: whether the process asks for no messages although it should, if that has changed.
            with_endings: count the outcomes that Celery has not been told of.

        Returns:
            ``None`` if the lease is gone; else the milliseconds since the last sweep (-1: there was none), what was
            found (see :func:`asks_for_sweep`), Redis' time in ms, the age in ms reported by the heartbeat before, the
            number of those outcomes, 1 if messages were cancelled while workers had them, and the version of the
            overrides of timeouts.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        call = commands.heartbeat(
            self._keys,
            self.incarnation,
            fields,
            missed_ms=to_ms(self._options.missed_s),
            oom_group=oom_group,
            oom_kills=oom_kills,
            not_polling=not_polling,
            with_endings=with_endings,
        )
        alive, *rest = self._commands.run(*call)
        if self._commands.connection._sock is not self._socket:
            # It was opened again on the way: the record now names a connection that is gone.
            self._socket = None
        return [int(value) for value in rest] if alive else None

    def find_loss(self) -> Loss | None:
        """The loss of data that is why the lease is gone; ``None`` if the incarnation was declared dead.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        return find_loss(self._commands.call, self._keys, self.dataset, self.incarnation, self.age_ms())

    def record_reply(self) -> bool:
        """Record that Redis has answered; returns whether it had not before."""
        if self.away_since is None:
            return False
        logger.warning(
            "heartbeats of %s reach Redis again after %.1f s", self.incarnation, monotonic() - self.away_since
        )
        self.away_since = None
        return True

    def record_failure(self, error: Exception) -> None:
        """Record that Redis has not answered, and close the connection."""
        if self.away_since is None:
            self.away_since = monotonic()
            logger.warning(
                "heartbeat of %s not sent: %s",
                self.incarnation,
                describe_outage(self._commands.named_refusal(error, self._keys)),
            )
        self._socket = None
        self._commands.drop()
