"""`distribute` and `discover`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any, Final, TypeAlias

from orchestrator.agents.agent import Agent
from orchestrator.agents.directory import Directory
from orchestrator.coordination.distribution.backend import AgentState, DistributionBackend, OutgoingItem
from orchestrator.coordination.distribution.report import DistributionReport, GivenItem
from orchestrator.core.distribution import DistributionStrategy, Taker, spread, strategy_of
from orchestrator.core.errors import DistributionRefused, InvalidPolicy, NoAgents
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.needs import Needs
from orchestrator.core.placement import offers
from orchestrator.sending.agent_messages import build_agent_message, new_id
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.send_options import BROADCAST_OPTIONS, BroadcastOptions, CheckedOptions, check_options
from orchestrator.telemetry import emit, events, tracing

#: Items of one distribution, and the agents that it is spread over.
MOST_ITEMS: Final = 100_000
MOST_AGENTS: Final = 200

#: How often items are given out anew because mailboxes have filled up, or breakers opened, meanwhile.
_TRIES: Final = 3

Items: TypeAlias = Iterable[Message] | Mapping[str, Message]
Recipients: TypeAlias = Needs | Iterable[str | type[Agent]]


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """A living agent that offers what was asked for."""

    name: str
    capabilities: tuple[str, ...]
    #: The hosts of the workers that serve it.
    hosts: tuple[str, ...]
    #: How many messages its workers run at once, all together.
    slots: int
    #: Messages in its mailbox that nobody has claimed, and those that its workers have claimed.
    waiting: int
    claimed: int

    @property
    def load(self) -> float:
        """Messages waiting and claimed for each slot."""
        return (self.waiting + self.claimed) / max(1, self.slots)


class Distributor:
    """Gives items of one app out to agents."""

    def __init__(self, directory: Directory, backend: Callable[[], DistributionBackend]) -> None:
        self._directory = directory
        self._backend = backend

    # -- finding agents

    def discover(
        self, capability: str | Collection[str], max_load: float | None = None, host: str | None = None
    ) -> list[FoundAgent]:
        """See :meth:`orchestrator.app.Orchestrator.discover`."""
        names = (capability,) if isinstance(capability, str) else capability
        if not isinstance(names, Collection):
            raise InvalidPolicy("capability", capability, "the name of a capability, or a list of such names")
        return self._find(Needs(*names, max_load=max_load, host=host), self._directory.offered())

    def _find(self, needs: Needs, offered: Mapping[str, Collection[str]]) -> list[FoundAgent]:
        able = sorted(name for name, has in offered.items() if offers(has, needs.capabilities))
        if not able:
            return []
        backend = self._backend()
        states = backend.states({name: self._directory.queue_of(name) for name in able})
        hosts = backend.hosts()
        found = [
            FoundAgent(name, tuple(sorted(offered[name])), hosts.get(name, ()), s.slots, s.waiting, s.claimed)
            for name, s in states.items()
            if s.slots
        ]
        chosen = [
            one
            for one in found
            if (needs.max_load is None or one.load <= needs.max_load)
            and (needs.host is None or needs.host in one.hosts)
        ]
        return sorted(chosen, key=lambda one: (one.load, one.name))

    # -- giving out items

    def distribute(
        self, items: Items, to: Recipients, strategy: DistributionStrategy | str, options: BroadcastOptions
    ) -> DistributionReport:
        """See :meth:`orchestrator.app.Orchestrator.distribute`."""
        checked, chosen = check_options(options, BROADCAST_OPTIONS, "distribute"), strategy_of(strategy)
        keys, messages = _items_of(items)
        agents = self._recipients(to, messages)
        firsts = self._firsts(agents, messages, checked)
        id, backend, began = new_id(), self._backend(), monotonic()
        if not messages:
            return DistributionReport(id, chosen, (), tuple(agents), {})
        for agent in agents:
            backend.prepare(firsts[agent, type(messages[0])])
        mailboxes = {agent: queue_name(firsts[agent, type(messages[0])]) for agent in agents}
        refused: Mapping[str, Refusal] = {}
        for _ in range(_TRIES):
            states = backend.states(mailboxes)
            takers, left_out = _takers(states)
            places = spread(len(messages), takers, chosen, Random())
            if len(places) < len(messages):
                break
            outgoing = [
                OutgoingItem(firsts[takers[place].agent, type(message)], new_id(), [encode(message)])
                for place, message in zip(places, messages, strict=True)
            ]
            id = new_id()
            with tracing.span("distribute", "PRODUCER", id=id):
                refused = backend.accept(id, outgoing)
            if not refused:
                sizes = {"items": len(outgoing), "agents": len(takers), "duration_s": monotonic() - began}
                emit(events.DISTRIBUTED, sizes, id=id, strategy=chosen.value)
                given = tuple(_given(key, one) for key, one in zip(keys, outgoing, strict=True))
                names = tuple(taker.agent for taker in takers)
                return DistributionReport(
                    id, chosen, given, names, left_out, backend.outcomes, backend.awaiter, backend.tracker
                )
        by_mailbox = {queue: agent for agent, queue in mailboxes.items()}
        why = dict(left_out) | {name: state.refusal for name, state in states.items() if state.refusal is not None}
        why |= {by_mailbox[queue]: reason for queue, reason in refused.items()}
        emit(events.DISTRIBUTION_REFUSED, {"items": len(messages)}, id=id, strategy=chosen.value)
        room = sum(taker.room or 0 for taker in takers)
        raise DistributionRefused(len(messages), room, {agent: reason.value for agent, reason in why.items()})

    def _recipients(self, to: Recipients, messages: Sequence[Message]) -> list[str]:
        """The names of the agents.

        Raises:
            InvalidPolicy: they are no such list, or one is named twice.
            NoAgents: no living agent handles all messages and offers what is needed.
        """
        if isinstance(to, Needs):
            return self._offering(to, messages)
        if isinstance(to, str | bytes | type) or not isinstance(to, Iterable):
            raise InvalidPolicy("to", to, "Needs(…), or a list of agents' names or Agent classes")
        names = [self._name_of(one) for one in to]
        if not 1 <= len(names) <= MOST_AGENTS:
            raise InvalidPolicy("to", f"{len(names)} of them", f"from 1 to {MOST_AGENTS} agents")
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise InvalidPolicy("to", twice, "each agent once")
        return names

    def _name_of(self, recipient: object) -> str:
        if isinstance(recipient, type) and issubclass(recipient, Agent):
            return recipient.name
        if not isinstance(recipient, str):
            raise InvalidPolicy("to", recipient, "agents' names or Agent classes")
        return recipient

    def _offering(self, needs: Needs, messages: Sequence[Message]) -> list[str]:
        types = sorted({message_name(type(message)) for message in messages})
        handling = [self._directory.capabilities(name) for name in types] or [self._directory.offered()]
        offered = {name: has for name, has in handling[0].items() if all(name in known for known in handling)}
        found = self._find(needs, offered)
        if not found:
            raise NoAgents(" and ".join(types) or "it", needs.capabilities, offered, living=str(needs))
        return [one.name for one in found[:MOST_AGENTS]]

    def _firsts(
        self, agents: Sequence[str], messages: Sequence[Message], options: CheckedOptions
    ) -> dict[tuple[str, type], OutgoingMessage]:
        """A message of each type to each agent.

        Raises:
            CallerError: an agent is not known, or does not handle a message.
        """
        types = {type(message): message for message in messages}
        for agent in agents:
            self._directory.queue_of(agent)
        return {
            (agent, kind): build_agent_message(self._directory, agent, message, options)
            for agent in agents
            for kind, message in types.items()
        }


def _items_of(items: object) -> tuple[Sequence[Any], list[Message]]:
    """The names or places of the items, and their messages.

    Raises:
        InvalidPolicy: they are too many, or not all of them are messages.
    """
    if isinstance(items, str | bytes | Message) or not isinstance(items, Iterable):
        raise InvalidPolicy("items", items, "a list of messages, or messages by their names")
    messages = list(items.values() if isinstance(items, Mapping) else items)
    keys = list(items) if isinstance(items, Mapping) else range(len(messages))
    if len(messages) > MOST_ITEMS:
        raise InvalidPolicy("items", f"{len(messages)} of them", f"at most {MOST_ITEMS}")
    faults = [
        f"{key!r}: {type(one).__name__}"
        for key, one in zip(keys, messages, strict=True)
        if not isinstance(one, Message)
    ]
    if faults:
        raise InvalidPolicy("items", faults[:20], "instances of Message classes")
    return keys, messages


def _takers(states: Mapping[str, AgentState]) -> tuple[list[Taker], dict[str, Refusal]]:
    """The agents that can take items; and why the others cannot."""
    takers, left_out = [], {}
    for agent, state in states.items():
        if not state.slots:
            left_out[agent] = Refusal.DOWN
        elif state.room == 0:
            left_out[agent] = state.refusal or Refusal.FULL
        else:
            takers.append(Taker(agent, state.load, state.slots, state.room))
    return takers, left_out


def _given(key: int | str, item: OutgoingItem) -> GivenItem:
    s = item.like.supervision
    return GivenItem(key, item.id, s.agent, s.message, queue_name(item.like), s.on_error)
