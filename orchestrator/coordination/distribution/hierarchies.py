"""Hierarchies of agents: who leads whom, kept under a name, and a broadcast to a level of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias, Unpack

from redis.exceptions import RedisError

from orchestrator.agents.agent import Agent
from orchestrator.coordination.checks import checked_name
from orchestrator.coordination.distribution import commands
from orchestrator.core.errors import (
    InvalidDeclaration,
    InvalidPolicy,
    UnknownAgent,
    UnknownHierarchy,
)
from orchestrator.core.message import Message
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.core.stored_values import stored_text
from orchestrator.sending.broadcast import Refusal, Strategy
from orchestrator.sending.report import Receipt, Report
from orchestrator.sending.send_options import BroadcastOptions
from orchestrator.sending.sender import Sender
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.redis.scripts import script_of
from orchestrator.transport.store import Store

#: Agents of one hierarchy, at most.
MOST_AGENTS: Final = 10_000

#: Levels of agents below each other.
_DEEPEST: Final = 50

#: Faults that an error shows, at most.
_SHOWN: Final = 20

_LEVELS: Final = ("all", "leads", "members")

Name: TypeAlias = str | type[Agent]
#: Agents, each with those below it; the last ones as a list.
Structure: TypeAlias = Mapping[Any, Any] | Sequence[Any]


class HierarchyStore(Protocol):
    """Keeps structures, as JSON data, by their names. Every method raises :class:`BrokerUnavailable`."""

    def read(self, name: str) -> str | None: ...
    def write(self, name: str, structure: str) -> None: ...
    def delete(self, name: str) -> bool: ...
    def names(self) -> list[str]: ...


@named_arguments
class Hierarchy:
    """A hierarchy as it was when it was declared or looked up."""

    def __init__(
        self,
        name: str,
        structure: Mapping[str, Any],
        hierarchies: Hierarchies,
        leads: tuple[str, ...],
        agents: tuple[str, ...],
    ) -> None:
        self.name = name
        #: What is below each agent: a mapping of agents with those below them, empty for a member.
        self.structure = structure
        #: Those that have agents below them, and those that have none; each above the ones below it.
        self.leads = leads
        self.members = tuple(agent for agent in agents if agent not in set(leads))
        self._agents = agents
        self._hierarchies = hierarchies

    def __repr__(self) -> str:
        return f"<Hierarchy {self.name}: {len(self.leads)} leads, {len(self.members)} members>"

    def agents(self, level: str = "all") -> tuple[str, ...]:
        """The agents of a level: ``"all"``, ``"leads"`` or ``"members"``.

        Raises:
            InvalidPolicy: there is no such level.
        """
        if not isinstance(level, str) or level not in _LEVELS:
            raise InvalidPolicy("level", level, ", ".join(_LEVELS))
        return {"all": self._agents, "leads": self.leads, "members": self.members}[level]

    def broadcast(self, message: Message, level: str = "all", **options: Unpack[BroadcastOptions]) -> Report:
        """Send a copy of a message to each agent of a level; who cannot take it is left out, and named in the report.

        An agent that is no longer known is left out like one that is down. Options are those of
        :meth:`Orchestrator.broadcast`.

        Raises:
            InvalidPolicy: there is no such level, or an option has a bad value.
            UnknownMessage: an agent of the level does not handle the message; nothing was sent.
            BrokerUnavailable: Redis did not accept it.
        """
        return self._hierarchies.broadcast(self.agents(level), message, options)

    def delete(self) -> bool:
        """Forget the hierarchy; ``False`` if that was done already.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._hierarchies.delete(self.name)


class Hierarchies:
    """The hierarchies of one app."""

    def __init__(self, store: Callable[[], HierarchyStore], sender: Sender, queue_of: Callable[[str], str]) -> None:
        self._store = store
        self._sender = sender
        self._queue_of = queue_of

    def hierarchy(self, name: str, structure: Structure | None = None) -> Hierarchy:
        """See :meth:`orchestrator.app.Orchestrator.hierarchy`."""
        checked_name(name)
        if structure is None:
            found = self._store().read(name)
            if found is None:
                raise UnknownHierarchy(name, self.names())
            return self._made(name, json.loads(found))
        plain = _checked(name, structure, self._is_known)
        for agent in _walk(plain):
            self._queue_of(agent)
        self._store().write(name, json.dumps(plain))
        return self._made(name, plain)

    def _is_known(self, agent: str) -> bool:
        try:
            self._queue_of(agent)
        except UnknownAgent:
            return False
        return True

    def names(self) -> list[str]:
        """The names of all hierarchies.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return sorted(self._store().names())

    def delete(self, name: str) -> bool:
        """Forget a hierarchy; ``False`` if there is none of that name.

        Raises:
            InvalidPolicy: it is no name.
            BrokerUnavailable: Redis is away.
        """
        return self._store().delete(checked_name(name))

    def broadcast(self, agents: Sequence[str], message: Message, options: BroadcastOptions) -> Report:
        """Send a copy to each of those that are known."""
        known, lost = [], []
        for agent in agents:
            try:
                self._queue_of(agent)
                known.append(agent)
            except UnknownAgent:
                lost.append(Receipt(agent, refusal=Refusal.DOWN))
        if not known:
            return Report("", Strategy.BEST_EFFORT, tuple(lost))
        report = self._sender.broadcast(known, message, Strategy.BEST_EFFORT, None, options)
        receipts = {receipt.recipient: receipt for receipt in (*report.receipts, *lost)}
        return replace(report, receipts=tuple(receipts[agent] for agent in agents))

    def _made(self, name: str, structure: Mapping[str, Any]) -> Hierarchy:
        return Hierarchy(name, structure, self, tuple(_leads(structure)), tuple(_walk(structure)))


def _checked(name: str, structure: object, is_known: Callable[[str], bool]) -> dict[str, Any]:
    """The structure as JSON data, with a mapping for each agent.

    Agents that are not known are faults only beside others; alone, they are another error.

    Raises:
        InvalidDeclaration: it is none, an agent is in it twice or below itself, or it is too large.
    """
    faults: list[str] = []
    above_of: dict[str, tuple[str, ...]] = {}

    def plain(part: object, above: tuple[str, ...]) -> dict[str, Any]:
        if len(above) > _DEEPEST:
            faults.append(f"more than {_DEEPEST} levels below {masked_repr(above[0])}; allowed: at most {_DEEPEST}")
            return {}
        if isinstance(part, Mapping):
            pairs = list(part.items())
        elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
            pairs = [(agent, ()) for agent in part]
        else:
            where = f"below {masked_repr(above[-1])}" if above else "on top"
            faults.append(f"{masked_repr(part)} {where}; allowed: a mapping of agents, or a list of them")
            return {}
        made: dict[str, Any] = {}
        for key, below in pairs:
            agent = key.name if isinstance(key, type) and issubclass(key, Agent) else key
            if not isinstance(agent, str):
                faults.append(f"{masked_repr(agent)}; allowed: agents' names or Agent classes")
            elif agent in above:
                cycle = " → ".join(masked_repr(one)[1:-1] for one in (*above[above.index(agent) :], agent))
                faults.append(f"a cycle: {cycle}; allowed: an agent stands in it once")
            elif agent in above_of:
                faults.append(f"agent {masked_repr(agent)} is in it twice; allowed: once")
            else:
                above_of[agent] = above
                made[agent] = plain(below, (*above, agent))
        return made

    made = plain(structure, ())
    if not faults and not 1 <= len(above_of) <= MOST_AGENTS:
        faults.append(f"{len(above_of)} agents; allowed: from 1 to {MOST_AGENTS}")
    if faults:
        faults += [f"agent {masked_repr(agent)} is not known" for agent in above_of if not is_known(agent)]
        shown = list(dict.fromkeys(faults))
        more = f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        raise InvalidDeclaration(f"hierarchy {name!r}: {'; '.join(shown[:_SHOWN])}{more}")
    return made


def _walk(structure: Mapping[str, Any]) -> Iterator[str]:
    """All agents, each before those below it."""
    for agent, below in structure.items():
        yield agent
        yield from _walk(below)


def _leads(structure: Mapping[str, Any]) -> Iterator[str]:
    for agent, below in structure.items():
        if below:
            yield agent
            yield from _leads(below)


class RedisHierarchies:
    """Structures in Redis."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._callers = Callers()

    def _ask(self, command: Callable[[Any, str], Any]) -> Any:
        store = self._store()
        try:
            return command(store.client, store.keys.hierarchies)
        except RedisError as error:
            raise store.failure(error) from error

    def read(self, name: str) -> str | None:
        """The structure of that name."""
        raw = self._ask(lambda client, key: client.hget(key, name))
        if raw is None:
            return None
        store, text = self._store(), stored_text(raw)
        with store.reading(store.keys.hierarchies):
            dict(json.loads(text).items())
        return text

    def write(self, name: str, structure: str) -> None:
        """Keep a structure."""
        self._ask(lambda client, key: client.hset(key, name, structure))

    def delete(self, name: str) -> bool:
        """Forget a structure; whether there was one."""
        store = self._store()

        def delete(attempt: Attempt) -> Any:
            script, keys, args = commands.delete_hierarchy(store.keys, name, attempt)
            return store.run(script_of(__package__, script), keys, args)

        return bool(self._callers.run(store.keys, delete))

    def names(self) -> list[str]:
        """The names of all."""
        return [stored_text(raw) for raw in self._ask(lambda client, key: client.hkeys(key))]


class InMemoryHierarchies:
    """Structures in this process, for eager mode."""

    def __init__(self) -> None:
        self._structures: dict[str, str] = {}

    def read(self, name: str) -> str | None:
        """The structure of that name."""
        return self._structures.get(name)

    def write(self, name: str, structure: str) -> None:
        """Keep a structure."""
        self._structures[name] = structure

    def delete(self, name: str) -> bool:
        """Forget a structure; whether there was one."""
        return self._structures.pop(name, None) is not None

    def names(self) -> list[str]:
        """The names of all."""
        return list(self._structures)
