"""Monitors in Redis. Each change is one script; see ``lua/``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

from celery import Celery
from redis.exceptions import RedisError

from orchestrator.agents.agent import AgentSpec
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BrokerUnavailable, OwnerGone
from orchestrator.core.log import get_logger
from orchestrator.core.settings import Settings
from orchestrator.core.supervision import Supervision
from orchestrator.monitors.entry import MonitorEntries, MonitorStats, Record, oldest, stats_of
from orchestrator.monitors.envelope import DOWN, supervision_json, template
from orchestrator.monitors.leak import Leak, Leaks
from orchestrator.monitors.monitors import Monitors, checked_ref, tag_json
from orchestrator.monitors.origin import Origin, Origins
from orchestrator.monitors.owner import Owner
from orchestrator.monitors.redis_session import RedisSession
from orchestrator.monitors.search import LeakSearch
from orchestrator.monitors.targets import Targets
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.publish_dedup import publishes_now
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.scripts import Script, script_of
from orchestrator.transport.store import Store

logger = get_logger(__name__)

T = TypeVar("T")

Names = list[str]

#: Monitors per script call: Redis is never held for longer than a few milliseconds.
BATCH = 200

#: Monitors that one script ends: each was seen to cost Redis 23 µs on a busy machine,
#: and nobody shall wait for it longer than 20 ms.
_DEATH_BATCH = 100

#: Of one death, so much is done at a time; see the transport's ``on_death``.
_ON_DEATH_S = 0.9

_PAGE = 500

#: Keys that Redis looks at per call where all of them are gone through.
_KEYS_PAGE = 1000

#: What a look-up of names is tried again for: incarnations that join at every moment.
_TRIES = 20


def script(name: str) -> Script:
    """One of the scripts beside this file."""
    return script_of("orchestrator.monitors", name)


class RedisMonitors(Monitors):
    """Monitors in the Redis behind a store, which is opened when it is first needed."""

    def __init__(
        self, app: Celery, open_store: Callable[[], Store], agents: Callable[[], Mapping[str, AgentSpec]], s: Settings
    ) -> None:
        super().__init__(app)
        self._open_store = open_store
        self._agents = agents
        self._settings = s
        self._origins = Origins(s.monitor_origins)
        self._noted: set[str] = set()
        self._described: set[str] = set()
        self._lookup: Targets | None = None

    @property
    def _store(self) -> Store:
        return self._open_store()

    @property
    def _targets(self) -> Targets:
        if self._lookup is None:
            self._lookup = Targets(self._store)
        return self._lookup

    @cached_property
    def telling(self) -> tuple[str, str, str, str]:
        """What scripts that record DOWNs are told first."""
        return self._store.keys.root, template(), self._store.steps[1], supervision_json(Supervision(track=False))

    # -- making and ending

    def _create(self, owner: Owner, wanted: Sequence[tuple[str, str]]) -> list[int]:
        origin = self._origins.here()
        refs: list[int] = []
        for at in range(0, len(wanted), BATCH):
            batch = wanted[at : at + BATCH]
            first = self._create_batch(owner, batch, origin)
            refs.extend(range(first, first + len(batch)))
        if refs:
            emit(events.MONITORED, {"count": len(refs)}, owner=owner.id)
        return refs

    def _create_batch(self, owner: Owner, batch: Sequence[tuple[str, str]], origin: Origin) -> int:
        k = self._store.keys
        if owner.agent and owner.agent not in self._described:
            self._describe(owner.agent)
        keys = [
            *(k.monitors, k.monitor_counter, k.monitor_owners, k.monitor_targets, k.monitor_origins),
            *(k.incarnation_counter, k.monitors_of(owner.id), k.down_supervision, k.monitor_answers),
        ]
        text = "" if origin.name in self._noted else origin.text
        anew = False
        for _ in range(_TRIES):
            counter, flat = self._addressed(batch, anew=anew)
            args = [*self.telling, owner.id, owner.agent, counter, origin.name, text, uuid4().hex, *flat]
            answer = self._run("create", keys, args)
            first = int(answer[0])
            if first == -1:
                raise OwnerGone(owner.id)
            if first == -3:
                self._describe(owner.agent)
                continue
            if first == -2:
                anew = True
                continue
            self._noted.add(origin.name)
            if len(answer) > 1:
                emit(events.DOWN, {"count": len(answer) - 1}, target="", reason="noproc")
            return first
        raise BrokerUnavailable(self._store.url, f"incarnations joined in each of {_TRIES} tries to look up names")

    def _addressed(self, batch: Sequence[tuple[str, str]], *, anew: bool) -> tuple[str, Sequence[Any]]:
        flat: list[Any] = []
        counter = ""
        for target, tag in batch:
            if "#" in target:
                flat += (target, tag, 1, target)
                continue
            hosts = self._read(lambda: self._targets.hosts(anew=anew))
            living = hosts.by_agent.get(target, ())
            if not living and not anew:
                # Before it is said that nobody is there, somebody looks.
                return self._addressed(batch, anew=True)
            counter = hosts.counter
            flat += (target, tag, len(living), *living)
        return counter, flat

    def _describe(self, agent: str) -> None:
        spec = self._agents().get(agent)
        known = Supervision(agent=agent, message=DOWN, track=False)
        if spec is not None:
            known = spec.untracked(DOWN)
        k, client = self._store.keys, self._store.client
        self._read(lambda: client.hset(k.down_supervision, agent, supervision_json(known)))
        self._described.add(agent)

    def demonitor(self, ref: int, *, flush: bool = True) -> bool:
        """End a monitor."""
        number, k = checked_ref(ref), self._store.keys
        keep_ms = to_ms(self._settings.outcome_ttl_s) if flush else 0
        keys = [k.monitors, k.monitor_counter, k.flushed(number), publishes_now(k)]
        ended = self._run("demonitor", keys, [k.root, number, keep_ms, uuid4().hex])
        if ended is None:
            return False
        emit(events.UNMONITORED, {"count": 1}, who=ended.decode(), why="removed")
        return True

    def is_flushed(self, ref: int) -> bool:
        """Whether a DOWN is not wanted any more."""
        return bool(self._read(lambda: self._store.client.exists(self._store.keys.flushed(ref))))

    def session(self) -> RedisSession:
        """A session with a lease of its own."""
        return RedisSession(self, self._store)

    # -- deaths

    def on_death(self, incarnation: str, reason: str) -> bool:
        """Do some of what an incarnation's death entails here: its monitors go, and its owners are told.

        Returns whether all is done. It may be called any number of times.
        """
        until = monotonic() + _ON_DEATH_S
        return self.clean_owner(incarnation, until) and self._tell_of(incarnation, reason, until)

    def clean_owner(self, owner: str, until: float) -> bool:
        """Remove the monitors of an owner that is gone; returns whether that was all of them."""
        k, removed, more = self._store.keys, 0, True
        keys = [k.monitors, k.monitors_of(owner), k.downs(owner), k.monitor_owners, k.monitor_answers]
        while more:
            some, more = self._run("owner_died", keys, [k.root, owner, _DEATH_BATCH])
            removed += some
            if monotonic() > until:
                break
        if removed:
            emit(events.UNMONITORED, {"count": removed}, who=owner, why="owner died")
        return not more

    def _tell_of(self, target: str, reason: str, until: float) -> bool:
        k, told, ownerless, more = self._store.keys, 0, 0, True
        while more:
            some, alone, more = self._run(
                "target_died", [k.monitors, k.monitors_on(target)], [*self.telling, target, reason, _DEATH_BATCH]
            )
            told += some
            ownerless += alone
            if monotonic() > until:
                break
        if told:
            emit(events.DOWN, {"count": told}, target=target, reason=reason)
            emit(events.UNMONITORED, {"count": told}, who=target, why="target died")
        if ownerless:
            emit(events.UNMONITORED, {"count": ownerless}, who=target, why="owner died")
        return not more

    # -- looking

    def list(
        self, *, owner: str | None = None, target: str | None = None, tag: Any = ..., limit: int = 1000
    ) -> MonitorEntries:
        """Monitors, oldest first."""
        wanted = None if tag is ... else tag_json(tag)
        fitting = (
            record
            for record in self._records(owner, target)
            if (owner is None or owner in (record.owner, record.agent))
            and (target is None or target == record.target or target in record.incarnations)
            and (wanted is None or wanted == record.tag_json)
        )
        found = oldest(fitting, limit)
        alive, origins, now_ms = self.living(), self.origins(), self.now_ms()
        return [record.entry(now_ms, origins, alive) for record in found]

    def _records(self, owner: str | None, target: str | None) -> Iterator[Record]:
        k = self._store.keys
        client: Any = self._store.client
        for name, pages in ((owner, self.owned), (target, self.monitoring)):
            if name is not None and "#" in name:
                for ref, raw in pages(name):
                    if record := Record.parse(ref, raw):
                        yield record
                return
        cursor: Any = 0
        while True:
            cursor, page = self._read(partial(client.hscan, k.monitors, cursor, count=_PAGE))
            for ref, raw in page.items():
                if record := Record.parse(ref, raw):
                    yield record
            if not int(cursor):
                return

    def owned(self, owner: str) -> Iterator[tuple[bytes, bytes]]:
        """The refs of an owner's set with their records; an empty one where there is none."""
        return self._page_through(self._store.keys.monitors_of(owner), "SSCAN")

    def monitoring(self, target: str) -> Iterator[tuple[bytes, bytes]]:
        """The same of a target's."""
        return self._page_through(self._store.keys.monitors_on(target), "ZSCAN")

    def _page_through(self, key: str, scan: str) -> Iterator[tuple[bytes, bytes]]:
        cursor: Any = 0
        while True:
            cursor, *flat = self._run("list_monitors", [key, self._store.keys.monitors], [cursor, _PAGE, scan])
            yield from zip(flat[::2], flat[1::2], strict=True)
            if not int(cursor):
                return

    def living(self) -> set[str]:
        """Incarnations and sessions that have a lease."""
        client: Any = self._store.client
        return {raw.decode() for raw in self._read(lambda: client.zrange(self._store.keys.leases, 0, -1))}

    def origins(self) -> dict[str, str]:
        """Places in the code, by their short names."""
        client: Any = self._store.client
        raw = self._read(lambda: client.hgetall(self._store.keys.monitor_origins))
        return {name.decode(): text.decode("utf-8", "replace") for name, text in raw.items()}

    def now_ms(self) -> int:
        """Redis' clock."""
        seconds, micros = self._read(self._store.client.time)
        return int(seconds) * 1000 + int(micros) // 1000

    def stats(self) -> MonitorStats:
        """How many monitors there are and were, all at one moment."""
        k = self._store.keys

        def read() -> Any:
            with self._store.client.pipeline(transaction=True) as pipe:
                pipe.hgetall(k.monitor_stats)
                pipe.hlen(k.monitors)
                return pipe.execute()

        raw, active = self._read(read)
        return stats_of(active, {name.decode(): int(n) for name, n in raw.items()})

    # -- leaks

    def find_leaks(self, age_s: float | None = None) -> Leaks:
        """Look through all monitors, and judge each suspect."""
        search = LeakSearch(self, self._leak_age_s(age_s), everywhere=True)
        while not search.go_on(for_s=60.0):
            pass
        return search.leaks()

    def search(self, age_s: float | None = None) -> LeakSearch:
        """A search for leaks that can be done a little at a time."""
        return LeakSearch(self, self._leak_age_s(age_s))

    def _leak_age_s(self, age_s: float | None) -> float:
        return self._settings.monitor_leak_age_s if age_s is None else age_s

    def note_leaked(self, count: int) -> None:
        """Keep how many leaks the last search has found."""
        self._read(lambda: self._store.client.hset(self._store.keys.monitor_stats, "leaked", count))

    def mend_leaks(self, leaks: Iterable[Leak]) -> Leaks:
        """Mend what still is a leak."""
        return self.judge(list(leaks), mend=True)

    def judge(self, leaks: Sequence[Leak], *, mend: bool = False, age_s: float = 0.0) -> Leaks:
        """Those of the suspects that are leaks; mended, if told to. Each is judged, and mended, as one step."""
        proven: Leaks = []
        for at in range(0, len(leaks), BATCH):
            batch = leaks[at : at + BATCH]
            flat = [part for leak in batch for part in (leak.kind.value, leak.field or leak.ref, leak.more)]
            args = [*self.telling, "mend" if mend else "judge", to_ms(age_s) if age_s else 0, *flat]
            verdicts = self._run("repair", [self._store.keys.monitors], args)
            proven += [leak for leak, yes in zip(batch, verdicts, strict=True) if yes]
        return proven

    def torn(self) -> Iterator[tuple[bytes, bytes]]:
        """Monitors that are unreadable or missing in a set, with pauses: ``(b"", b"")`` after each page."""
        k, cursor = self._store.keys, 0
        while True:
            answer: Any = self._run("find_inconsistent", [k.monitors], [k.root, cursor, _PAGE])
            cursor, _, *flat = answer
            yield from zip(flat[::2], flat[1::2], strict=True)
            yield b"", b""
            if not int(cursor):
                return

    def parties(self, key: str) -> Names:
        """The members of one of the sets that name sets."""
        raw: Any = self._read(lambda: self._store.client.smembers(key))
        return sorted(name.decode() for name in raw)

    def sets_there(self, prefix: str) -> Names:
        """What follows in the keys that begin so, whether anything names them or not. Goes through all keys."""
        client: Any = self._store.client
        pattern = re.sub(r"([][*?\\])", r"\\\1", prefix) + "*"
        raw = self._read(lambda: set(client.scan_iter(pattern, count=_KEYS_PAGE)))
        return sorted(key.decode().removeprefix(prefix) for key in raw)

    @property
    def store(self) -> Store:
        """Where they are kept."""
        return self._store

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one of the scripts beside this file.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._run(name, keys, args)

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self._read(lambda: self._commands.run(script(name), keys, args))

    @cached_property
    def _commands(self) -> CommandConnection:
        # redis-py's client costs more than the script that makes a monitor.
        return CommandConnection(self._store.pool)

    def _read(self, command: Callable[[], T]) -> T:
        try:
            return command()
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(self._store.url, error) from error
