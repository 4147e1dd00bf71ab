"""Gives messages out to agents (`distribute`), and finds agents by what they offer (`discover`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random, shuffle
from time import monotonic
from typing import Any, Final, TypeAlias

from orchestrator.agents.agent import Agent
from orchestrator.agents.directory import Directory
from orchestrator.coordination.distribution.backend import (
    AcceptedBefore,
    AgentState,
    DistributionBackend,
    OutgoingItem,
)
from orchestrator.coordination.distribution.record import Key, fingerprint, item_ids, once_only, read_record
from orchestrator.coordination.distribution.report import DistributionReport, GivenItem
from orchestrator.core.coordination.distribution import DistributionStrategy, Taker, spread, strategy_of
from orchestrator.core.errors import DistributionRefused, InvalidPolicy, NoAgents
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.workflows.needs import Needs
from orchestrator.core.workflows.placement import offers
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.messages.agent_messages import build_agent_message, new_id
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.send_options import DISTRIBUTE_OPTIONS, CheckedOptions, DistributeOptions, check_options
from orchestrator.telemetry import emit, events, tracing

#: Items of one distribution, and the agents that it is spread over.
MOST_ITEMS: Final = 100_000
MOST_AGENTS: Final = 200

#: How often items are given out anew because mailboxes have filled up, or breakers opened, meanwhile.
_TRIES: Final = 3

#: The parameters of `distribute` that are no options.
_ARGUMENTS: Final = frozenset({"items", "to", "strategy"})

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
            FoundAgent(
                name, tuple(sorted(offered[name])), hosts.get(name, ()), state.slots, state.waiting, state.claimed
            )
            for name, state in states.items()
            if state.slots
        ]
        chosen = [
            one
            for one in found
            if (needs.max_load is None or one.load <= needs.max_load)
            and (needs.host is None or needs.host in one.hosts)
        ]
        # Sorted by load alone, it keeps this order: else who takes the first one gives all work to one agent.
        shuffle(chosen)
        return sorted(chosen, key=lambda one: one.load)

    # -- giving out items

    def distribute(
        self, items: Items, to: Recipients, strategy: DistributionStrategy | str, options: DistributeOptions
    ) -> DistributionReport:
        """See :meth:`orchestrator.app.Orchestrator.distribute`."""
        checked, chosen = check_options(options, DISTRIBUTE_OPTIONS, "distribute", _ARGUMENTS), strategy_of(strategy)
        keys, messages = _items_of(items)
        backend, began = self._backend(), monotonic()
        if checked.idempotency is None:
            return self._give_out(backend, began, keys, messages, to, chosen, checked)
        key, ttl_ms = checked.idempotency
        under = Key(key, ttl_ms, fingerprint(keys, messages))
        # Whoever took the items may live no more, so nobody is looked for.
        if (record := backend.accepted(key)) is not None:
            return self._read_first_report(backend, under, record, keys, messages)
        try:
            return self._give_out(backend, began, keys, messages, to, chosen, replace(checked, idempotency=None), under)
        except AcceptedBefore as first:
            return self._read_first_report(backend, under, first.record, keys, messages)

    def _read_first_report(
        self, backend: DistributionBackend, key: Key, record: str, keys: Sequence[Any], messages: Sequence[Message]
    ) -> DistributionReport:
        """The report of the distribution that was accepted first."""
        report = read_record(record, key, keys, messages)
        return replace(report, _await_many=backend.outcomes, _await=backend.awaiter, _tracker=backend.tracker)

    def _give_out(
        self,
        backend: DistributionBackend,
        began: float,
        keys: Sequence[Any],
        messages: Sequence[Message],
        to: Recipients,
        chosen: DistributionStrategy,
        options: CheckedOptions,
        under: Key | None = None,
    ) -> DistributionReport:
        agents = self._check_recipients(to, messages)
        examples = self._build_examples(agents, messages, options)
        id = new_id()
        for agent in agents:
            backend.prepare(examples[agent, type(messages[0])])
        mailboxes = {agent: queue_name(examples[agent, type(messages[0])]) for agent in agents}
        refused: Mapping[str, Refusal] = {}
        for _ in range(_TRIES):
            states = backend.states(mailboxes)
            takers, left_out = _takers(states)
            places = spread(len(messages), takers, chosen, Random())
            if len(places) < len(messages):
                break
            id = new_id()
            ids = [new_id() for _ in messages] if under is None else item_ids(id, len(messages))
            outgoing = [
                OutgoingItem(examples[takers[place].agent, type(message)], item_id, [encode(message)])
                for place, message, item_id in zip(places, messages, ids, strict=True)
            ]
            given = tuple(_given_item(key, one) for key, one in zip(keys, outgoing, strict=True))
            names = tuple(taker.agent for taker in takers)
            report = DistributionReport(
                id, chosen, given, names, left_out, backend.outcomes, backend.awaiter, backend.tracker
            )
            with tracing.span("distribute", "PRODUCER", id=id):
                refused = backend.accept(id, outgoing, None if under is None else once_only(under, report))
            if not refused:
                sizes = {"items": len(outgoing), "agents": len(takers), "duration_s": monotonic() - began}
                emit(events.DISTRIBUTED, sizes, id=id, strategy=chosen.value)
                return report
        by_mailbox = {queue: agent for agent, queue in mailboxes.items()}
        why = dict(left_out) | {name: state.refusal for name, state in states.items() if state.refusal is not None}
        why |= {by_mailbox[queue]: reason for queue, reason in refused.items()}
        emit(events.DISTRIBUTION_REFUSED, {"items": len(messages)}, id=id, strategy=chosen.value)
        room = sum(taker.room or 0 for taker in takers)
        raise DistributionRefused(len(messages), room, {agent: reason.value for agent, reason in why.items()})

    def _check_recipients(self, to: Recipients, messages: Sequence[Message]) -> list[str]:
        """The names of the agents.

        Raises:
            InvalidPolicy: they are no such list, or one is named twice.
            NoAgents: no living agent handles all messages and offers what is needed.
        """
        if isinstance(to, Needs):
            return self._find_offering(to, messages)
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

    def _find_offering(self, needs: Needs, messages: Sequence[Message]) -> list[str]:
        types = sorted({message_name(type(message)) for message in messages})
        handling = [self._directory.capabilities(name) for name in types]
        offered = {name: has for name, has in handling[0].items() if all(name in known for known in handling)}
        found = self._find(needs, offered)
        if not found:
            raise NoAgents(" and ".join(types), needs.capabilities, offered, living=str(needs))
        return [one.name for one in found[:MOST_AGENTS]]

    def _build_examples(
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
        InvalidPolicy: there are none or too many; not all of them are messages; or a name is no text.
    """
    if isinstance(items, str | bytes | Message) or not isinstance(items, Iterable):
        raise InvalidPolicy("items", items, "a list of messages, or messages by their names")
    messages = list(items.values() if isinstance(items, Mapping) else items)
    keys = list(items) if isinstance(items, Mapping) else range(len(messages))
    if not 1 <= len(messages) <= MOST_ITEMS:
        raise InvalidPolicy("items", f"{len(messages)} of them", f"from 1 to {MOST_ITEMS}")
    if isinstance(items, Mapping) and (nameless := [masked_repr(key) for key in keys if not isinstance(key, str)]):
        raise InvalidPolicy("items", nameless[:20], "texts as the names of items")
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


def _given_item(key: int | str, item: OutgoingItem) -> GivenItem:
    supervision = item.like.supervision
    return GivenItem(key, item.id, supervision.agent, supervision.message, queue_name(item.like), supervision.on_error)
