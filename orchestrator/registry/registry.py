"""The registry in Redis: agents ever hosted, and the incarnations alive."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.declared_limits import Difference, Limits, differences
from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.errors import CallerError
from orchestrator.core.keys import Keys
from orchestrator.transport.store import Store

#: Incarnations read in one round trip.
_AT_ONCE = 200

#: How long a sender caches the list of agents, in seconds.
_FRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """An agent, as its workers announce it."""

    name: str
    queue: str
    messages: tuple[str, ...]
    #: Message name -> the policies that its agent and handler declare, as JSON data.
    policies: Mapping[str, Any] = field(default_factory=dict)
    #: What it offers to steps of workflows.
    capabilities: tuple[str, ...] = ()
    #: The messages whose handlers may run twice at once.
    idempotent: tuple[str, ...] = ()
    bulkhead: Bulkhead | None = None


@dataclass(frozen=True, slots=True)
class IncarnationEntry:
    """A living incarnation, as of its last heartbeat."""

    id: str
    node: str
    host: str
    pid: int
    agents: tuple[str, ...]
    queues: tuple[str, ...]
    started_ms: int
    heartbeat_age_s: float
    held: int
    running: int
    oldest_running_s: float
    last_poll_s: float
    #: Seconds since it last asked for messages, while it has a free slot.
    not_polling_s: float = 0.0
    #: The messages that each of its agents handles.
    messages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Celery's pool, and how many tasks it runs at once; 0 where it is not known (no Orchestrator, or just started).
    pool: str = ""
    concurrency: int = 0
    #: Whether it has a heart, which renews its lease while its interpreter is blocked, and proves its death.
    has_heart: bool = False
    app_version: str = ""
    library_version: str = ""
    #: Load average of its host over the last minute.
    host_load: float = 0.0
    #: The limits that each of its agents declares, if it declares any.
    limits: Mapping[str, Limits] = field(default_factory=dict)

    @property
    def load(self) -> float:
        """Running tasks divided by slots; above 1 while a pool is being shrunk."""
        return self.running / self.concurrency if self.concurrency else float(self.running)


@dataclass(frozen=True, slots=True)
class OutdatedIncarnation:
    """A living incarnation whose scripts do not do all that follows on an outcome which they record."""

    id: str
    library_version: str
    queues: tuple[str, ...]
    #: What they do not do, of the below.
    lacks: tuple[str, ...]


#: The fields by which an incarnation says what its scripts do: begin the steps of a workflow that depend on one, and
#: count the votes of a ballot.
RELEASES_STEPS = "releases_steps"
COUNTS_VOTES = "counts_votes"

#: What says whether an incarnation is outdated.
_OF_VERSION = (RELEASES_STEPS, COUNTS_VOTES)
_READ_OF_VERSION = ("kind", "queues", "library_version", *_OF_VERSION)


@dataclass(frozen=True, slots=True)
class Death:
    """An incarnation that ended."""

    incarnation: str
    reason: str
    by: str
    at_ms: int
    host: str = ""
    pid: int = 0
    agents: tuple[str, ...] = ()
    app_version: str = ""
    started_ms: int = 0
    #: The error that ended it, or its exit code or signal, where that is known.
    error: str = ""

    @property
    def is_planned(self) -> bool:
        """Whether the end was intended: a shutdown or a deployment."""
        return self.reason in (DeathReason.DRAINED, DeathReason.DEPLOYED)


def _text(fields: dict[bytes, bytes], name: str, default: str = "") -> str:
    return fields.get(name.encode(), default.encode()).decode("utf-8", "replace")


def _names(text: str) -> tuple[str, ...]:
    try:
        loaded = json.loads(text)
    except ValueError:
        return ()
    return tuple(str(item) for item in loaded) if isinstance(loaded, list) else ()


def _number(fields: dict[bytes, bytes], name: str) -> int:
    return int(_seconds(fields, name))


def _seconds(fields: dict[bytes, bytes], name: str) -> float:
    try:
        value = float(_text(fields, name) or 0)
    except ValueError:
        return 0.0
    return value if isfinite(value) else 0.0


def _messages(text: str) -> dict[str, tuple[str, ...]]:
    try:
        return {str(name): tuple(map(str, messages)) for name, messages in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _readable(raw: bytes) -> str:
    """A text of Redis, whatever else has written there: one that is none of ours must not keep senders from sending."""
    return raw.decode(errors="replace")


def _described(name: str, raw: bytes) -> AgentEntry | None:
    try:
        described = json.loads(raw)
        return AgentEntry(
            name,
            described["queue"],
            tuple(described["messages"]),
            described.get("policies", {}),
            tuple(described.get("capabilities", ())),
            tuple(described.get("idempotent", ())),
            Bulkhead(*described["bulkhead"]) if "bulkhead" in described else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError, CallerError):
        return None


def _limits(text: str) -> dict[str, Limits]:
    try:
        return {
            str(agent): {str(policy): dict(fields) for policy, fields in policies.items()}
            for agent, policies in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def _described_agent(entry: AgentEntry) -> dict[str, Any]:
    described: dict[str, Any] = {
        "queue": entry.queue, "messages": sorted(entry.messages), "policies": dict(entry.policies)
    }  # fmt: skip
    for name in ("capabilities", "idempotent"):
        if values := getattr(entry, name):
            described[name] = list(values)
    if entry.bulkhead is not None:
        described["bulkhead"] = [entry.bulkhead.calls, entry.bulkhead.wait_s]
    return described


def _leases(client: Any, keys: Keys) -> Any:
    pipeline = client.pipeline(transaction=False)
    pipeline.zrange(keys.leases, 0, -1, withscores=True)
    pipeline.time()
    return pipeline.execute()


def _fields_of(client: Any, keys: Keys, leases: Iterable[tuple[bytes, float]], fields: Sequence[str] = ()) -> Any:
    pipeline = client.pipeline(transaction=False)
    for raw_id, _ in leases:
        key = keys.incarnation(_readable(raw_id))
        if fields:
            pipeline.hmget(key, fields)
        else:
            pipeline.hgetall(key)
    return pipeline.execute()


def _entry(name: str, fields: dict[bytes, bytes], age_s: float) -> IncarnationEntry:
    return IncarnationEntry(
        id=name,
        node=_text(fields, "node"),
        host=_text(fields, "host"),
        pid=_number(fields, "pid"),
        agents=_names(_text(fields, "agents", "[]")),
        queues=_names(_text(fields, "queues", "[]")),
        started_ms=_number(fields, "started_ms"),
        heartbeat_age_s=max(0.0, age_s),
        held=_number(fields, "held"),
        running=_number(fields, "running"),
        oldest_running_s=_seconds(fields, "oldest_running_s"),
        last_poll_s=_seconds(fields, "last_poll_s"),
        not_polling_s=_seconds(fields, "not_polling_s"),
        messages=_messages(_text(fields, "messages", "{}")),
        pool=_text(fields, "pool"),
        concurrency=_number(fields, "concurrency"),
        has_heart=bool(_text(fields, "heart")),
        app_version=_text(fields, "app_version"),
        library_version=_text(fields, "library_version"),
        host_load=_seconds(fields, "host_load"),
        limits=_limits(_text(fields, "limits", "{}")),
    )


def differing_limits(incarnations: Iterable[IncarnationEntry]) -> list[Difference]:
    """The limits that these incarnations declare differently for one agent."""
    return differences({i.id: {agent: i.limits.get(agent, {}) for agent in i.agents} for i in incarnations})


class Registry:
    """Reads and writes the registry.

    Every method raises :class:`BrokerUnavailable` when Redis is away.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, AgentEntry] = {}
        self._read_at = float("-inf")
        self._outdated: list[OutdatedIncarnation] = []
        self._outdated_at = float("-inf")

    def announce(self, entries: Iterable[AgentEntry]) -> None:
        """Register agents, so that senders know them; called by the worker that hosts them."""
        mapping = {e.name: json.dumps(_described_agent(e)) for e in entries}
        if mapping:
            self._call(lambda c, k: c.hset(k.agents, mapping=mapping))

    def agents(self) -> dict[str, AgentEntry]:
        """All agents that a worker has ever hosted; cached for two seconds."""
        if monotonic() - self._read_at > _FRESH_S:
            self._known = self._read_agents()
            self._read_at = monotonic()
        return self._known

    def _read_agents(self) -> dict[str, AgentEntry]:
        known = {}
        for raw_name, raw in self._call(lambda c, k: c.hgetall(k.agents)).items():
            entry = _described(_readable(raw_name), raw)
            if entry is not None:
                known[entry.name] = entry
        return known

    def incarnations(self) -> list[IncarnationEntry]:
        """All living incarnations, as of their last heartbeats; sorted by id."""
        leases, (now_s, now_us) = self._call(_leases)
        entries = []
        for at in range(0, len(leases), _AT_ONCE):
            some = leases[at : at + _AT_ONCE]
            described = self._call(lambda c, k, some=some: _fields_of(c, k, some))
            for (raw_id, beat_ms), fields in zip(some, described, strict=True):
                if fields and _text(fields, "kind") != "session":
                    entries.append(_entry(_readable(raw_id), fields, now_s + now_us / 1e6 - beat_ms / 1000))
        return sorted(entries, key=lambda e: e.id)

    def outdated(self, what: str = RELEASES_STEPS) -> list[OutdatedIncarnation]:
        """The living incarnations whose scripts do not do that; cached for two seconds."""
        if monotonic() - self._outdated_at > _FRESH_S:
            self._outdated = list(self._read_outdated())
            self._outdated_at = monotonic()
        return [one for one in self._outdated if what in one.lacks]

    def _read_outdated(self) -> Iterator[OutdatedIncarnation]:
        leases, _ = self._call(_leases)
        for at in range(0, len(leases), _AT_ONCE):
            some = leases[at : at + _AT_ONCE]
            known = self._call(lambda c, k, some=some: _fields_of(c, k, some, _READ_OF_VERSION))
            for (raw_id, _), (kind, queues, version, *does) in zip(some, known, strict=True):
                lacks = tuple(name for name, value in zip(_OF_VERSION, does, strict=True) if not value)
                # Of a session, and of one that ends just now, there are no queues.
                if lacks and kind != b"session" and queues is not None:
                    queues_served = _names(_readable(queues))
                    yield OutdatedIncarnation(_readable(raw_id), _readable(version or b""), queues_served, lacks)

    def hosted(self, agent: str, queue: str) -> bool:
        """Whether a living incarnation hosts the agent, or with ``agent`` empty, consumes from the queue."""
        return bool(self.host_of(agent, queue))

    def host_of(self, agent: str, queue: str) -> str:
        """A living incarnation that hosts the agent, or with ``agent`` empty, consumes from the queue; '' for none."""
        leased = self._call(lambda c, k: c.zrange(k.leases, 0, -1))
        if not leased:
            return ""

        def described(client: Any, keys: Any) -> Any:
            with client.pipeline(transaction=False) as pipe:
                for raw_id in leased:
                    pipe.hget(keys.incarnation(_readable(raw_id)), "agents" if agent else "queues")
                return pipe.execute()

        wanted = agent or queue
        known = zip(leased, self._call(described), strict=True)
        found = (raw_id for raw_id, raw in known if raw is not None and wanted in _names(_readable(raw)))
        return _readable(next(found, b""))

    def now_ms(self) -> int:
        """Redis' time."""
        now_s, now_us = self._call(lambda c, k: c.time())
        return int(1000 * now_s + now_us // 1000)

    def deaths(self, limit: int = 100) -> list[Death]:
        """The last incarnations that ended, newest first."""
        rows = self._call(lambda c, k: c.xrevrange(k.deaths, count=limit))
        found = [
            Death(
                incarnation=_text(fields, "incarnation"),
                reason=_text(fields, "reason"),
                by=_text(fields, "by"),
                # A record that was completed later has another place, and the time of the first.
                at_ms=_number(fields, "at_ms") or int(entry.decode().split("-")[0]),
                host=_text(fields, "host"),
                pid=_number(fields, "pid"),
                agents=_names(_text(fields, "agents", "[]")),
                app_version=_text(fields, "app_version"),
                started_ms=_number(fields, "started_ms"),
                error=_text(fields, "error"),
            )
            for entry, fields in rows
        ]
        return sorted(found, key=lambda death: death.at_ms, reverse=True)

    def _call(self, command: Any) -> Any:
        try:
            return command(self._store.client, self._store.keys)
        except RedisError as error:
            raise self._store.failure(error) from error
