"""The directory of agents: those declared in this process, and those announced by workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from time import monotonic
from typing import Final

from celery import Celery
from kombu import Queue

from orchestrator.agents.agent import Agent
from orchestrator.agents.declaration import inspect_agent
from orchestrator.agents.spec import AgentSpec
from orchestrator.agents.unhandled_message import unknown_message
from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.flow_policy import Breaker, Flow
from orchestrator.core.errors import (
    InvalidDeclaration,
    InvalidPolicy,
    OrchestratorError,
    UnknownAgent,
)
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.timeouts import Timeouts, most_specific
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.core.settings import Settings
from orchestrator.core.workflows.placement import offers
from orchestrator.registry.registry import AgentEntry
from orchestrator.sending.address import Address
from orchestrator.sending.mailbox import mailbox

#: Seconds for which the registry's reply about a task's name is cached.
_CACHED_S: Final = 5.0


class Directory:
    """Finds agents by name. ``announced`` reads the registry; it is called only for agents not declared here."""

    def __init__(self, app: Celery, announced: Callable[[], Mapping[str, AgentEntry]], settings: Settings) -> None:
        self.declared: dict[str, AgentSpec] = {}
        self.timeouts: Timeouts = settings.time_limits
        self._app = app
        self._announced = announced
        self._addresses: dict[tuple[str, str], Address] = {}
        self._breakers: dict[str, Breaker | None] = {}
        #: By names of tasks that no agent declared here has: until when it is cached, and the registry's reply.
        self._named_elsewhere: dict[str, tuple[float, Address | None]] = {}
        self._settings = settings

    def declare(self, cls: type[Agent]) -> AgentSpec | None:
        """Add a declaration; ``None`` if it was added before.

        Raises:
            InvalidDeclaration: it cannot be hosted, or its name is taken.
        """
        spec = inspect_agent(cls, self.timeouts)
        known = self.declared.get(spec.name)
        if known is not None and known.cls is not cls:
            raise InvalidDeclaration(f"two agents are called {spec.name!r}: {known.cls!r} and {cls!r}")
        if known is not None:
            return None
        self.declared[spec.name] = spec
        return spec

    def entries(self, queues: Iterable[str]) -> list[AgentEntry]:
        """The declared agents whose mailboxes are among ``queues``, as the registry keeps them."""
        consumed = set(queues)
        return [
            AgentEntry(
                spec.name,
                spec.queue,
                tuple(spec.handlers),
                {name: [spec.policy.to_wire(), h.policy.to_wire()] for name, h in spec.handlers.items()},
                spec.capabilities,
                tuple(name for name, handler in spec.handlers.items() if handler.is_idempotent),
                spec.bulkhead,
            )
            for spec in self.declared.values()
            if spec.queue in consumed
        ]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secret fields of all messages that are handled by an agent declared here."""
        handlers = (handler for spec in self.declared.values() for handler in spec.handlers.values())
        return tuple(sorted({name for handler in handlers for name in secret_names(handler.message)}))

    def queue_of(self, agent: str) -> str:
        """The mailbox of an agent.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
        """
        if agent in self.declared:
            return self.declared[agent].queue
        announced = self._announced()
        if agent not in announced:
            raise UnknownAgent(agent, {*self.declared, *announced})
        return announced[agent].queue

    def mailboxes(self) -> dict[str, str]:
        """The mailbox of each task of an agent declared here."""
        specs = self.declared.values()
        return {spec.task_name(name): spec.queue for spec in specs for name in (*spec.handlers, "on_down")}

    def addresses(self) -> list[Address]:
        """The address of every message that an agent declared here handles."""
        return [address for spec in self.declared.values() for address in self.addresses_of(spec)]

    def known_addresses(self) -> list[Address]:
        """The address of every message of every agent that is declared here or announced by workers.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return [self.address(name, message) for name, known in sorted(self.messages().items()) for message in known]

    def messages(self) -> dict[str, Collection[str]]:
        """What every agent handles that is declared here or announced by workers, by the agents' names.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        announced: dict[str, Collection[str]] = {name: one.messages for name, one in self._announced().items()}
        return announced | {name: sorted(spec.handlers) for name, spec in self.declared.items()}

    def addresses_of(self, spec: AgentSpec) -> list[Address]:
        """The address of every message that an agent handles."""
        return [self.address(spec.name, name) for name in sorted(spec.handlers)]

    def flow(self, agent: str) -> Flow:
        """The flow control of an agent: the settings', else its declaration's. An empty name has none."""
        if not agent:
            # A plain task has none; the pattern "*" is for agents.
            return Flow()
        spec = self.declared.get(agent)
        declared = spec.flow if spec is not None else Flow()
        if not self._settings.mailboxes and not self._settings.breakers:
            return declared
        return Flow(
            most_specific(self._settings.mailboxes, (agent,)) or declared.mailbox,
            most_specific(self._settings.breakers, (agent,)) or declared.breaker,
        )

    def breaker(self, agent: str) -> Breaker | None:
        """The circuit breaker of an agent; cached, because each settlement of a worker asks."""
        if agent not in self.declared:
            return self.flow(agent).breaker
        if agent not in self._breakers:
            self._breakers[agent] = self.flow(agent).breaker
        return self._breakers[agent]

    def address(self, recipient: object, message: str) -> Address:
        """See :class:`orchestrator.sending.address.Directory`."""
        if not isinstance(recipient, str) and not (isinstance(recipient, type) and issubclass(recipient, Agent)):
            raise InvalidPolicy("recipient", recipient, "an agent's name, an Agent class, or a Celery signature")
        agent = recipient if isinstance(recipient, str) else recipient.name
        known = self._addresses.get((agent, message))
        if known is None and agent in self.declared:
            known = self._addresses[agent, message] = self._declared(self.declared[agent], message)
        return known or self._elsewhere(agent, message)

    def offering(self, message: str, needs: Collection[str]) -> list[Address]:
        """See :class:`orchestrator.sending.address.Directory`."""
        able = {name for name, has in self.capabilities(message).items() if offers(has, needs)}
        return [self.address(name, message) for name in sorted(able)]

    def capabilities(self, message: str) -> dict[str, Collection[str]]:
        """See :class:`orchestrator.sending.address.Directory`."""
        known: dict[str, Collection[str]] = {
            name: entry.capabilities for name, entry in self._announced().items() if message in entry.messages
        }
        for name, spec in self.declared.items():
            known.pop(name, None)
            if message in spec.handlers:
                known[name] = spec.capabilities
        return known

    def offered(self) -> dict[str, Collection[str]]:
        """The capabilities of all known agents, by their names.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        known: dict[str, Collection[str]] = {name: entry.capabilities for name, entry in self._announced().items()}
        return known | {name: spec.capabilities for name, spec in self.declared.items()}

    def by_task(self, task: str) -> Address | None:
        """The address of the agent's message that a task's name stands for; ``None`` if it stands for none."""
        agent, _, message = task.rpartition(".")
        spec = self.declared.get(agent)
        if spec is not None:
            return self.address(agent, message) if message in spec.handlers else None
        if not agent or task in self._app._tasks:
            return None
        until, known = self._named_elsewhere.get(task, (0.0, None))
        if monotonic() > until:
            try:
                known = self._elsewhere(agent, message)
            except OrchestratorError:
                known = None
            self._named_elsewhere[task] = monotonic() + _CACHED_S, known
        return known

    def hidden_in(self, address: Address) -> tuple[str, ...]:
        """The names of a message's secret fields, as far as its class is known here."""
        spec = self.declared.get(address.agent)
        return () if spec is None else secret_names(spec.handlers[address.message].message)

    def _declared(self, spec: AgentSpec, message: str) -> Address:
        handler = spec.handlers.get(message)
        if handler is None:
            raise unknown_message(spec.name, message, spec.handlers)
        return self._at(
            spec.name,
            message,
            spec.queue,
            spec.policy,
            handler.policy,
            is_idempotent=handler.is_idempotent,
            bulkhead=spec.bulkhead,
        )

    def _elsewhere(self, agent: str, message: str) -> Address:
        announced = self._announced()
        if agent not in announced:
            raise UnknownAgent(agent, {*self.declared, *announced})
        entry = announced[agent]
        if message not in entry.messages:
            raise unknown_message(agent, message, entry.messages)
        levels = (Policy.from_wire(wire) for wire in entry.policies.get(message, ({}, {})))
        return self._at(
            agent,
            message,
            mailbox(entry.queue),
            *levels,
            is_idempotent=message in entry.idempotent,
            bulkhead=entry.bulkhead,
        )

    def _at(
        self,
        agent: str,
        message: str,
        queue: Queue | str,
        of_agent: Policy,
        of_handler: Policy,
        *,
        is_idempotent: bool,
        bulkhead: Bulkhead | None,
    ) -> Address:
        task = f"{agent}.{message}"
        policy = self.timeouts.merged(task, agent, ("agent", of_agent), ("handler", of_handler))
        return Address(agent, message, task, queue, policy, is_idempotent, bulkhead)
