"""Creating monitors in Redis: one script call for a batch, with the targets' incarnations looked up before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import BrokerUnavailable, OwnerGone
from orchestrator.core.forks import lazy_property
from orchestrator.monitors import commands
from orchestrator.monitors.commands import WantedMonitor
from orchestrator.monitors.envelope import DOWN, supervision_json
from orchestrator.monitors.origin import Origin, OriginRecorder
from orchestrator.monitors.redis_calls import BATCH, RedisMonitorCalls
from orchestrator.monitors.targets import Targets
from orchestrator.telemetry import emit, events
from orchestrator.transport.store import Store
from orchestrator.worker.execution.owner import Owner

#: Attempts at a batch; one fails only if an incarnation joins between the look-up of names and the script.
_MAX_ATTEMPTS = 20

# Replies of ``create.lua`` in place of the first ref.
_OWNER_GONE = -1
_INCARNATIONS_CHANGED = -2
_SUPERVISION_UNKNOWN = -3


class RedisMonitorCreation(RedisMonitorCalls):
    """Creates monitors."""

    def __init__(
        self, open_store: Callable[[], Store], agents: Callable[[], Mapping[str, AgentSpec]], monitor_origins: str
    ) -> None:
        super().__init__(open_store)
        self._agents = agents
        self._origin_recorder = OriginRecorder(monitor_origins)
        #: Names of origins, and agents with their supervision, that this process has written to Redis.
        self._written_origins: set[str] = set()
        self._written_supervision: set[str] = set()

    @lazy_property
    def _targets(self) -> Targets:
        return Targets(self.store)

    def _create(self, owner: Owner, wanted: Sequence[tuple[str, str]]) -> list[int]:
        origin = self._origin_recorder.capture()
        refs: list[int] = []
        for at in range(0, len(wanted), BATCH):
            batch = wanted[at : at + BATCH]
            first = self._create_batch(owner, batch, origin)
            refs.extend(range(first, first + len(batch)))
        if refs:
            emit(events.MONITORED, {"count": len(refs)}, owner=owner.id)
        return refs

    def _create_batch(self, owner: Owner, batch: Sequence[tuple[str, str]], origin: Origin) -> int:
        """Create monitors in one step; returns the first of their consecutive refs."""
        if owner.agent and owner.agent not in self._written_supervision:
            self._write_supervision(owner.agent)
        text = "" if origin.name in self._written_origins else origin.text
        refresh = False
        for _ in range(_MAX_ATTEMPTS):
            counter, wanted = self._with_incarnations(batch, refresh=refresh)
            call = commands.create(
                self.store.keys,
                self.down_sending,
                owner.id,
                owner.agent,
                wanted,
                counter=counter,
                origin=origin.name,
                origin_text=text,
                call_id=uuid4().hex,
            )
            reply = self.run(*call)
            first = int(reply[0])
            if first == _OWNER_GONE:
                raise OwnerGone(owner.id)
            if first == _SUPERVISION_UNKNOWN:
                self._write_supervision(owner.agent)
                continue
            if first == _INCARNATIONS_CHANGED:
                refresh = True
                continue
            self._written_origins.add(origin.name)
            if len(reply) > 1:
                emit(events.DOWN, {"count": len(reply) - 1}, target="", reason="noproc")
            return first
        problem = f"incarnations joined in each of {_MAX_ATTEMPTS} attempts to look up names"
        raise BrokerUnavailable(self.store.url, problem)

    def _with_incarnations(
        self, batch: Sequence[tuple[str, str]], *, refresh: bool
    ) -> tuple[str, Sequence[WantedMonitor]]:
        """The incarnation counter, and the monitors with the incarnations of their targets."""
        wanted: list[WantedMonitor] = []
        counter = ""
        for target, tag in batch:
            if "#" in target:
                wanted.append(WantedMonitor(target, tag, (target,)))
                continue
            hosts = self._call(lambda: self._targets.hosts(refresh=refresh))
            living = hosts.by_agent.get(target, ())
            if not living and not refresh:
                # The cached look-up may be old: read it again before the target counts as dead.
                return self._with_incarnations(batch, refresh=True)
            counter = hosts.counter
            wanted.append(WantedMonitor(target, tag, tuple(living)))
        return counter, wanted

    def _write_supervision(self, agent: str) -> None:
        """Write to Redis how an agent's DOWNs are supervised."""
        spec = self._agents().get(agent)
        supervision = Supervision(agent=agent, message=DOWN, track=False)
        if spec is not None:
            supervision = spec.untracked(DOWN)
        k, client = self.store.keys, self.store.client
        self._call(lambda: client.hset(k.down_supervision, agent, supervision_json(supervision)))
        self._written_supervision.add(agent)
