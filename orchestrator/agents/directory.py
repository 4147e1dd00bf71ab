"""The agents that are known here: declared in this process, or announced by a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from celery import Celery

from orchestrator.agents.agent import Agent, AgentSpec, inspect_agent
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy, UnknownAgent, UnknownMessage
from orchestrator.core.policy import OnError, Retry
from orchestrator.registry.agents import AgentEntry
from orchestrator.sending.address import Address
from orchestrator.sending.mailbox import mailbox


class Directory:
    """Who there is. ``announced`` reads the registry; it is asked only for agents that are not declared here."""

    def __init__(self, app: Celery, announced: Callable[[], Mapping[str, AgentEntry]]) -> None:
        self.declared: dict[str, AgentSpec] = {}
        self._app = app
        self._announced = announced

    def declare(self, cls: type[Agent]) -> AgentSpec | None:
        """Enter a declaration; ``None`` when it is known already.

        Raises:
            InvalidDeclaration: it cannot be hosted, or its name is taken.
        """
        spec = inspect_agent(cls)
        known = self.declared.get(spec.name)
        if known is not None and known.cls is not cls:
            raise InvalidDeclaration(f"two agents are called {spec.name!r}: {known.cls!r} and {cls!r}")
        if known is not None:
            return None
        self.declared[spec.name] = spec
        self._app.amqp.queues.select_add(mailbox(spec.queue))
        return spec

    def entries(self, queues: Iterable[str]) -> list[AgentEntry]:
        """The declared agents whose mailboxes are among ``queues``, as the registry keeps them."""
        consumed = set(queues)
        return [
            AgentEntry(spec.name, spec.queue, tuple(spec.handlers))
            for spec in self.declared.values()
            if spec.queue in consumed
        ]

    def address(self, recipient: object, message: str) -> Address:
        """See :class:`orchestrator.sending.address.Directory`."""
        if not isinstance(recipient, str) and not (isinstance(recipient, type) and issubclass(recipient, Agent)):
            raise InvalidPolicy("recipient", recipient, "an agent's name, an Agent class, or a Celery signature")
        agent = recipient if isinstance(recipient, str) else recipient.name
        spec = self.declared.get(agent)
        if spec is not None:
            handler = spec.handlers.get(message)
            if handler is None:
                raise UnknownMessage(agent, message, spec.handlers)
            return Address(agent, message, spec.task_name(message), spec.queue, handler.retry, spec.on_error)
        announced = self._announced()
        if agent not in announced:
            raise UnknownAgent(agent, {*self.declared, *announced})
        entry = announced[agent]
        if message not in entry.messages:
            raise UnknownMessage(agent, message, entry.messages)
        return Address(agent, message, f"{agent}.{message}", mailbox(entry.queue), Retry(), OnError.DEAD_LETTER)
