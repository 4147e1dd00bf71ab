"""For how long a worker has had no incarnation although it should consume; ``orchestrator health`` reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.transport.redis.command_connection import CommandConnection

#: How often a worker without a consumer checks whether it could have one.
_CHECK_EVERY_S = 1.0


class ConsumerAbsence:
    """Measures the time from the end of an incarnation until the worker has another one."""

    def __init__(self, commands: CommandConnection) -> None:
        self._commands = commands
        self._since: float | None = None

    def vital_signs(self) -> dict[str, Any]:
        """The seconds without a consumer as ``absent_s``; nothing while none are counted."""
        return {} if self._since is None else {"absent_s": monotonic() - self._since}

    def measure(self, vital_signs: Callable[[], dict[str, Any]]) -> None:
        """Measure until another incarnation reports to ``orchestrator health`` in the place of ``vital_signs``.

        Time in which Redis does not answer does not count, nor does time in which the worker has no queue.
        """
        if not HEALTH_REPORTER.is_worker():
            return
        self._since = monotonic()
        never = threading.Event()
        while HEALTH_REPORTER.watches(vital_signs) and not never.wait(_CHECK_EVERY_S):
            if not HEALTH_REPORTER.should_consume() or not self._is_answered():
                self._since = monotonic()
        self._commands.drop()

    def _is_answered(self) -> bool:
        try:
            self._commands.call("PING")
        except (RedisError, OSError):
            self._commands.drop()
            return False
        return True
