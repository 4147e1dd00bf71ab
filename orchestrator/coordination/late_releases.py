"""Releases that Redis did not answer: a thread repeats them until it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.log import get_logger
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.refused_work import RefusedWork

logger = get_logger(__name__)

#: Pause after an attempt in which Redis was away, or after all releases that it has refused were tried.
_PAUSE_S: Final = 0.5


@dataclass(eq=False, slots=True)
class _LateRelease:
    call: Call
    #: Held while it is run, so that only one thread emits what it has ended.
    turn: ForkSafeLock = field(default_factory=ForkSafeLock)
    is_done: bool = False


class LateReleases:
    """The releases of one backend that are repeated. Without it, a permit would stay held until its owner ends."""

    def __init__(self, run: Callable[[Call], Any]) -> None:
        self._run = run
        self._late: list[_LateRelease] = []
        self._lock = ForkSafeLock()
        self._refused = RefusedWork(logger, "until Redis takes it")
        #: The process whose thread runs; a forked child has none.
        self._runs_in = 0
        #: The process whose releases these are.
        self._pid = os.getpid()
        #: Cuts short the pause of that thread.
        self._pause = threading.Event()

    def add(self, call: Call) -> None:
        """Have a release repeated until it was answered. A repeated one changes nothing."""
        with self._lock:
            self._forget_inherited()
            self._late.append(_LateRelease(call))
            if self._runs_in == os.getpid():
                # What was refused before it must not hold it up.
                self._pause.set()
                return
            self._runs_in, self._pause = os.getpid(), threading.Event()
        threading.Thread(target=self._repeat, name="orchestrator-release", daemon=True).start()

    def run_now(self, blocks: Callable[[Call], bool]) -> None:
        """Run the releases that block what is asked next.

        Raises:
            BrokerUnavailable: Redis is still away.
        """
        if not self._late:
            return
        with self._lock:
            self._forget_inherited()
            blocking = [one for one in self._late if blocks(one.call)]
        for one in blocking:
            self._run_once(one)

    def _forget_inherited(self) -> None:
        """In a forked child: the parent's thread repeats the parent's releases."""
        if self._pid != os.getpid():
            self._late.clear()
            self._pid = os.getpid()

    def _run_once(self, late: _LateRelease) -> None:
        with late.turn:
            if not late.is_done:
                self._run(late.call)
                late.is_done = True

    def _repeat(self) -> None:
        pause = self._pause
        while True:
            with self._lock:
                pause.clear()
                if not self._late:
                    self._runs_in = 0
                    return
                late = list(self._late)
            if not self._run_each(late):
                pause.wait(_PAUSE_S)

    def _run_each(self, late: list[_LateRelease]) -> bool:
        """Run each release, but no more once Redis is away; returns whether all were answered."""
        are_answered = True
        for one in late:
            try:
                self._run_once(one)
            except BrokerUnavailable as error:
                are_answered = False
                if self._is_away(one.call, error):
                    break
                # It is refused by itself, because its key is broken: the others are tried without a pause.
                continue
            except Exception:
                logger.exception("a permit could not be released; it is held until its owner ends")
            with self._lock:
                self._late.remove(one)
        return are_answered

    def _is_away(self, call: Call, error: BrokerUnavailable) -> bool:
        script, _, arguments = call
        try:
            self._refused.pass_over(" ".join(map(str, (script, *arguments[1:3]))), error)
        except BrokerUnavailable:
            logger.debug("a release is repeated until Redis answers: %s", error)
            return True
        return False
