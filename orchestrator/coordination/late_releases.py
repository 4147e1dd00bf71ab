"""Releases that Redis did not answer: a thread repeats them until it does."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.log import get_logger
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.refused_work import RefusedWork

logger = get_logger(__name__)

#: Pause between two attempts.
_PAUSE_S: Final = 0.5


class LateReleases:
    """The releases of one backend that are repeated. Without it, a permit would stay held until its owner ends."""

    def __init__(self, run: Callable[[Call], Any]) -> None:
        self._run = run
        self._calls: deque[Call] = deque()
        self._lock = ForkSafeLock()
        self._refused = RefusedWork(logger, "until Redis takes it")
        #: The process whose thread runs; a forked child has none.
        self._runs_in = 0

    def add(self, call: Call) -> None:
        """Have a release repeated until it was answered. A repeated one changes nothing."""
        with self._lock:
            self._calls.append(call)
            if self._runs_in == os.getpid():
                return
            self._runs_in = os.getpid()
        threading.Thread(target=self._repeat, name="orchestrator-release", daemon=True).start()

    def run_now(self, blocks: Callable[[Call], bool]) -> None:
        """Run the releases that block what is asked next.

        Raises:
            BrokerUnavailable: Redis is still away.
        """
        if not self._calls:
            return
        with self._lock:
            blocking = [call for call in self._calls if blocks(call)]
        for call in blocking:
            # The thread repeats it, which changes nothing.
            self._run(call)

    def _log_refusal(self, call: Call, error: BrokerUnavailable) -> None:
        script, _, arguments = call
        try:
            self._refused.pass_over(" ".join(map(str, (script, *arguments[1:3]))), error)
        except BrokerUnavailable:
            logger.debug("a release is repeated until Redis answers: %s", error)

    def _repeat(self) -> None:
        pause = threading.Event()
        while True:
            with self._lock:
                if not self._calls:
                    self._runs_in = 0
                    return
                call = self._calls[0]
            try:
                self._run(call)
            except BrokerUnavailable as error:
                self._log_refusal(call, error)
                with self._lock:
                    # One that is refused by itself, because its key is broken, must not hold up the others.
                    self._calls.rotate(-1)
                pause.wait(_PAUSE_S)
                continue
            except Exception:
                logger.exception("a permit could not be released; it is held until its owner ends")
            self._calls.popleft()
