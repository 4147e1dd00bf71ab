"""The agents, incarnations, deaths and mailboxes that ``celery -A APP agents`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.agents.spec import AgentSpec
from orchestrator.registry.mailboxes import MailboxState, read_mailboxes
from orchestrator.registry.registry import AgentEntry, Death, IncarnationEntry

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

#: Deaths that are read; an agent's last death is searched among them.
DEATHS_READ = 1000


class State(StrEnum):
    """The activity of an incarnation, according to its heartbeat."""

    IDLE = "idle"
    BUSY = "busy"
    #: Its heartbeat is late; the next sweep checks whether it is dead.
    LATE = "late"
    #: It sends heartbeats and has a free slot, but does not consume: fenced once messages wait for it.
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """An agent declared by the app or announced by a worker. It is up while an incarnation hosts it."""

    name: str
    queue: str
    messages: tuple[str, ...]
    declared: bool
    announced: bool
    incarnations: tuple[str, ...]

    @property
    def up(self) -> bool:
        """Whether a living incarnation hosts it."""
        return bool(self.incarnations)


def state_of(incarnation: IncarnationEntry, heartbeat_timeout_s: float, stuck_s: float) -> State:
    """The activity of an incarnation."""
    if incarnation.heartbeat_age_s > heartbeat_timeout_s:
        return State.LATE
    if incarnation.not_polling_s > stuck_s:
        return State.STUCK
    if incarnation.running:
        return State.BUSY
    return State.IDLE


def known_agents(
    declared: Mapping[str, AgentSpec], announced: Mapping[str, AgentEntry], incarnations: Sequence[IncarnationEntry]
) -> list[KnownAgent]:
    """Every agent that is declared or was ever announced, sorted by name."""
    known = []
    for name in sorted({*declared, *announced}):
        if name in declared:
            queue, messages = declared[name].queue, tuple(sorted(declared[name].handlers))
        else:
            queue, messages = announced[name].queue, announced[name].messages
        hosts = tuple(i.id for i in incarnations if name in i.agents)
        known.append(KnownAgent(name, queue, messages, name in declared, name in announced, hosts))
    return known


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The agents, incarnations, deaths and mailboxes at one moment."""

    agents: list[KnownAgent]
    incarnations: list[IncarnationEntry]
    deaths: list[Death]
    mailboxes: list[MailboxState]

    def mailbox(self, agent: KnownAgent) -> MailboxState:
        """The state of an agent's mailbox."""
        return next((one for one in self.mailboxes if one.queue == agent.queue), MailboxState(agent.queue))

    def hosts(self, agent: KnownAgent) -> list[IncarnationEntry]:
        """The living incarnations that host an agent."""
        return [i for i in self.incarnations if i.id in agent.incarnations]

    def last_death(self, agent: KnownAgent) -> Death | None:
        """The last death of a host of an agent, among the deaths that were read."""
        return next((death for death in self.deaths if agent.name in death.agents), None)


def take_snapshot(orchestrator: Orchestrator) -> Snapshot:
    """Read the registry.

    Raises:
        BrokerUnavailable: Redis cannot be reached.
    """
    incarnations = orchestrator.registry.incarnations()
    known = known_agents(orchestrator.agents, orchestrator.registry.agents(), incarnations)
    mailboxes = read_mailboxes(orchestrator.runtime.store, incarnations)
    return Snapshot(known, incarnations, orchestrator.registry.deaths(DEATHS_READ), mailboxes)
