"""Wakes a sleeping scheduler by a subscription, which costs Redis nothing while it waits."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.core.log import get_logger
from orchestrator.transport.redis.readable import is_readable

logger = get_logger(__name__)

#: Between two attempts to subscribe.
_AGAIN_S: Final = 1.0


class Bell:
    """Waits for a change of the schedules. Without a connection it waits for the time alone."""

    def __init__(self, pool: Any, channel: str, stopped: threading.Event) -> None:
        self._pool = pool
        self._channel = channel
        self._stopped = stopped
        self._connection: Any = None
        self._again_at = 0.0

    def wait(self, wait_s: float) -> None:
        """Wait until the bell rings, but at most ``wait_s`` seconds by the monotonic clock."""
        if wait_s <= 0:
            return
        connection = self._subscribed()
        if connection is None:
            self._stopped.wait(wait_s)
            return
        try:
            while is_readable(connection, wait_s):
                connection.read_response(push_request=True)
                wait_s = 0
        except (RedisError, OSError, ValueError):
            self.close()

    def _subscribed(self) -> Any:
        if self._connection is None and monotonic() >= self._again_at:
            self._again_at = monotonic() + _AGAIN_S
            try:
                connection = self._pool.get_connection()
                self._connection = connection
                connection.send_command("SUBSCRIBE", self._channel)
                connection.read_response(push_request=True)
            except (RedisError, OSError):
                logger.debug("the bell of the schedules cannot be subscribed to", exc_info=True)
                self.close()
        return self._connection

    def close(self) -> None:
        """Close the connection; the next wait opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)
