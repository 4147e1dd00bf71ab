"""Acts on timers that are due: each sweep looks for them, and calls the function of each one's kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.log import get_logger
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.refused_work import RefusedWork
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: Timers that one command reads.
_PAGE: Final = 200

#: Seconds for which one sweep acts on timers: the dead are more urgent.
_WORK_S: Final = 0.4


class DueTimers:
    """Acts on the timers of one app. ``workers`` has a function for each kind, called with the rest of a timer's name.

    A worker's script takes the timer out, once it is due. Sweepers may act on one at the same time.
    """

    def __init__(self, store: Callable[[], Store], workers: Mapping[str, Callable[[str], object]]) -> None:
        self._open_store = store
        self._workers = workers
        self._refused = RefusedWork(logger)

    def run(self, budget_s: float = _WORK_S) -> int:
        """Act on the timers that are due, as far as the time allows; returns on how many.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store, until, done, left = self._open_store(), monotonic() + budget_s, 0, 0
        seen: set[str] = set()
        while monotonic() < until:
            due = store.run(*commands.due_timers(store.keys, skip=left, most=_PAGE))
            # What something else has written there is of no kind, and must not hold up the others.
            page = [raw.decode(errors="replace") for raw in due]
            for timer in self._refused.last(page, "timer"):
                if timer not in seen and self._act(timer):
                    done += 1
                else:
                    # Of a kind that another version knows, or one that stayed where it was.
                    left += 1
                seen.add(timer)
                if monotonic() > until:
                    return done
            if len(page) < _PAGE:
                break
        return done

    def _act(self, timer: str) -> bool:
        kind, _, what = timer.partition(":")
        worker = self._workers.get(kind)
        if worker is None:
            return False
        try:
            worker(what)
        except BrokerUnavailable as error:
            self._refused.pass_over(f"timer {timer}", error)
            return False
        except Exception:
            # One must not hold up the others.
            logger.exception("timer %s failed; it is tried again with the next sweep", timer)
            return False
        return True
