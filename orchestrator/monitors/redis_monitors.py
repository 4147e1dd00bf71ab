"""Monitors in Redis. Each change is one script; see ``lua/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from celery import Celery

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.checks.choices import check_bool
from orchestrator.core.clock import to_ms
from orchestrator.core.settings import Settings
from orchestrator.monitors import commands
from orchestrator.monitors.leak import Leak, Leaks
from orchestrator.monitors.monitors import Monitors, checked_ref
from orchestrator.monitors.redis_calls import BATCH
from orchestrator.monitors.redis_creation import RedisMonitorCreation
from orchestrator.monitors.redis_deaths import RedisMonitorDeaths
from orchestrator.monitors.redis_reader import RedisMonitorReader
from orchestrator.monitors.redis_session import RedisSession
from orchestrator.monitors.search import LeakSearch
from orchestrator.telemetry import emit, events
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.store import Store

#: Seconds for which :meth:`RedisMonitors.find_leaks` searches at a time; it repeats until the search is complete.
_SEARCH_S = 60.0


class RedisMonitors(RedisMonitorCreation, RedisMonitorDeaths, RedisMonitorReader, Monitors):
    """Monitors in the Redis behind a store, which is opened when it is first needed."""

    def __init__(
        self,
        app: Celery,
        open_store: Callable[[], Store],
        agents: Callable[[], Mapping[str, AgentSpec]],
        settings: Settings,
    ) -> None:
        Monitors.__init__(self, app)
        RedisMonitorCreation.__init__(self, open_store, agents, settings.monitor_origins)
        self._settings = settings
        self._callers = Callers()

    def demonitor(self, ref: int, *, flush: bool = True) -> bool:
        """End a monitor."""
        check_bool("flush", flush)
        number, k = checked_ref(ref), self.store.keys
        keep_ms = to_ms(self._settings.outcome_ttl_s) if flush else 0
        owner = self._callers.run(
            k, lambda attempt: self.run(*commands.demonitor(k, number, keep_ms=keep_ms, attempt=attempt))
        )
        if owner is None:
            return False
        emit(events.UNMONITORED, {"count": 1}, who=owner.decode(), why="removed")
        return True

    def is_flushed(self, ref: int) -> bool:
        """Whether the DOWN of a monitor must not be delivered any more."""
        return bool(self._call(lambda: self.store.client.exists(self.store.keys.flushed(ref))))

    def session(self) -> RedisSession:
        """A session with its own lease."""
        return RedisSession(self, self.store)

    # -- leaks

    def find_leaks(self, age_s: float | None = None) -> Leaks:
        """Search all monitors, and judge each candidate."""
        search = LeakSearch(self, self._leak_age_s(age_s), everywhere=True)
        while not search.go_on(for_s=_SEARCH_S):
            pass
        return search.leaks()

    def search(self, age_s: float | None = None) -> LeakSearch:
        """A search for leaks that proceeds a little at a time."""
        return LeakSearch(self, self._leak_age_s(age_s))

    def _leak_age_s(self, age_s: float | None) -> float:
        return self._settings.monitor_leak_age_s if age_s is None else age_s

    def save_leak_count(self, count: int) -> None:
        """Store the number of leaks that the last search has found, for :meth:`stats`."""
        self._call(lambda: self.store.client.hset(self.store.keys.monitor_stats, "leaked", count))

    def repair_leaks(self, leaks: Iterable[Leak]) -> Leaks:
        """Repair those that are still leaks."""
        return self.judge(list(leaks), repair=True)

    def judge(self, leaks: Sequence[Leak], *, repair: bool = False, age_s: float = 0.0) -> Leaks:
        """The candidates that are leaks. Each is judged, and with ``repair`` repaired, in one step."""
        proven: Leaks = []
        for at in range(0, len(leaks), BATCH):
            batch = leaks[at : at + BATCH]
            suspects = [(leak.kind.value, leak.field or leak.ref, leak.more) for leak in batch]
            old_ms = to_ms(age_s) if age_s else 0
            call = commands.repair(self.store.keys, self.down_sending, suspects, repairs=repair, old_ms=old_ms)
            verdicts = self.run(*call)
            proven += [leak for leak, yes in zip(batch, verdicts, strict=True) if yes]
        return proven
