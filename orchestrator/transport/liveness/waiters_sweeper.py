"""Sweeps by processes that wait for an outcome: of a call to the last worker, nobody else would find the death."""

from __future__ import annotations

import atexit
import os
import socket
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.transport.liveness.fallback_sweeper import sweep_as_fallback
from orchestrator.transport.liveness.lease import asks_for_sweep
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection, Pool

logger = get_logger(__name__)

#: The first part of the name of such a sweeper in the record of deaths.
KIND: Final = "waiter"

#: Between two looks of one process, however many of its threads wait. Waits are cut into slices of a second.
_EVERY_S: Final = 0.9

#: How long the end of a process waits for a sweep, as its turn would hold up others.
_EXIT_TIMEOUT_S: Final = 1.0


class WaitersSweeper:
    """Looks whether a sweep is needed, and then sweeps in a thread, for all waits of a process in one Redis.

    A wait must end at its timeout, and as soon as there is an outcome, so it does not sweep in its own thread.
    """

    def __init__(self, pool: Pool, keys: Keys, options: Options, levels: Sequence[str]) -> None:
        self._commands = CommandConnection(pool)
        self._sweeper = Sweeper(self._commands, keys, options, levels)
        self._keys = keys
        self._options = options
        self._began_at = monotonic()
        self._lock = ForkSafeLock()
        self._looked_at = float("-inf")
        #: The process in which a thread looks or sweeps, or 0: a forked child has no such thread.
        self._busy_in = 0
        self._thread: threading.Thread | None = None

    def after_slice(self, run: Callable[..., Any]) -> None:
        """Look, unless this process has looked less than a second ago, and begin a sweep if one is needed.

        Args:
            run: runs a script.
        """
        if HEALTH_REPORTER.is_worker():
            # Its heartbeats do that, more often.
            return
        with self._lock:
            now = monotonic()
            if self._busy_in == os.getpid() or now - self._looked_at < _EVERY_S:
                return
            self._busy_in, self._looked_at = os.getpid(), now
        is_begun = False
        try:
            since_sweep_ms, found = run(*commands.read_sweep_state(self._keys, missed_ms=to_ms(self._options.missed_s)))
            is_asked = asks_for_sweep(since_sweep_ms, found)
            if since_sweep_ms < 0:
                # The monitor manager and workers get time to start.
                since_sweep_ms = to_ms(monotonic() - self._began_at)
            if is_asked or since_sweep_ms > to_ms(self._options.sweep_stale_s):
                self._begin(since_sweep_ms)
                is_begun = True
        except BrokerUnavailable as away:
            # The wait itself finds that out, and goes on for as long as it may.
            logger.debug("not looked whether a sweep is needed: %s", away)
        finally:
            if not is_begun:
                self._busy_in = 0

    def _begin(self, since_sweep_ms: int) -> None:
        self._thread = threading.Thread(
            target=self._sweep, args=(since_sweep_ms,), name="orchestrator-waiters-sweep", daemon=True
        )
        atexit.register(self._join)
        self._thread.start()

    def _sweep(self, since_sweep_ms: int) -> None:
        by = f"{KIND}@{socket.gethostname()}:{os.getpid()}"
        try:
            sweep_as_fallback(self._sweeper, self._options, by, since_sweep_ms)
        except (RedisError, OSError) as away:
            logger.debug("sweep of %s broken off, the next look begins another: %s", by, away)
        except Exception:
            logger.exception("sweep of %s failed", by)
        finally:
            self._commands.drop()
            atexit.unregister(self._join)
            self._busy_in = 0

    def _join(self) -> None:
        if self._busy_in == os.getpid() and self._thread is not None:
            self._thread.join(timeout=_EXIT_TIMEOUT_S)
