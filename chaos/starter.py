"""The process that starts workflows at a steady rate, and pauses, resumes, cancels and posts to some of them.

Whatever Redis does not answer is done again until it does: each of these acts can be repeated.
"""

from __future__ import annotations

import heapq
import logging
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import TypeVar

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from chaos.app import orchestrator
from chaos.flows import EVENT, Flow, chords, flows
from chaos.witness import witness
from orchestrator import Run
from orchestrator.core.errors import BrokerUnavailable

_AWAY = (OperationalError, RedisError, BrokerUnavailable, OSError)

_TICK_S = 0.02

T = TypeVar("T")


class Starter:
    """Starts runs until it is stopped, or has started all chords, and then does what is left to do to them."""

    def __init__(self, seed: int, rate: float, chords_only: int) -> None:
        app = orchestrator.app
        self._flows = enumerate(chords(app, chords_only) if chords_only else flows(app, seed))
        self._pause_s = 1 / rate
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def run(self) -> None:
        """Start runs; after the signal, only the runs that have been started are acted on."""
        start_at = time.monotonic()
        while not self._stopping or self._due:
            now = time.monotonic()
            if self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            elif not self._stopping and start_at <= now:
                start_at = max(start_at + self._pause_s, now - self._pause_s)
                try:
                    self._start(*next(self._flows))
                except StopIteration:
                    self._stopping = True
            else:
                time.sleep(_TICK_S)

    def _start(self, number: int, flow: Flow) -> None:
        workflow_id = f"{flow.kind}-{number}"
        witness().write("starting", run=workflow_id, kind=flow.kind)
        run = _until_answered(lambda: orchestrator.workflows.start(flow.workflow, workflow_id=workflow_id))
        witness().write("started", run=workflow_id, uid=run.uid)
        self._in(flow.pause_s, lambda: self._act(run, "pause", run.pause))
        self._in(flow.resume_s, lambda: self._act(run, "resume", run.resume))
        self._in(flow.cancel_s, lambda: self._act(run, "cancel", lambda: run.cancel(compensate=flow.compensate)))
        self._in(flow.post_s, lambda: self._act(run, "post", lambda: run.post(EVENT, {"by": number})))

    def _in(self, after_s: float | None, act: Callable[[], None]) -> None:
        if after_s is not None:
            heapq.heappush(self._due, (time.monotonic() + after_s, next(self._number), act))

    def _act(self, run: Run, what: str, act: Callable[[], object]) -> None:
        witness().write("asked", uid=run.uid, act=what)
        witness().write("acted", uid=run.uid, act=what, came_to=str(_until_answered(act)))


def _until_answered(ask: Callable[[], T]) -> T:
    while True:
        try:
            return ask()
        except _AWAY:
            time.sleep(0.05)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Starter(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])).run()
