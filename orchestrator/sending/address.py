"""Addresses: where an agent's message goes, and which policy applies to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kombu import Queue

from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.policies.effective import Effective
from orchestrator.core.policies.timeouts import Timeouts

if TYPE_CHECKING:
    from orchestrator.sending.messages.outgoing_message import OutgoingMessage


@dataclass(frozen=True, slots=True)
class Address:
    """One kind of message for one agent: where it goes, and the policy that applies unless the send says otherwise."""

    agent: str
    message: str
    task: str
    queue: Queue | str
    policy: Effective
    #: Whether its handler may run twice at once.
    is_idempotent: bool = False
    #: Its agent's.
    bulkhead: Bulkhead | None = None
    #: By type, a message that was sent without options: the next ones are copies with an id and a body of their own.
    usual: dict[type, OutgoingMessage] = field(default_factory=dict, init=False, repr=False, compare=False)


class Addresses(Protocol):
    """Looks up addresses, and the timeouts of tasks."""

    timeouts: Timeouts

    def address(self, recipient: Any, message: str) -> Address:
        """The address of a message, by its name on the wire, at an agent, by its name or class.

        Raises:
            InvalidPolicy: the recipient is neither.
            UnknownAgent: the agent is neither declared here nor announced.
            UnknownMessage: the agent does not handle the message.
        """


class Directory(Addresses, Protocol):
    """Looks up the agents."""

    def offering(self, message: str, needs: Collection[str]) -> list[Address]:
        """The addresses of a message at the known agents that handle it and offer all that is needed, by their names.

        Raises:
            BrokerUnavailable: Redis is away.
        """

    def capabilities(self, message: str) -> Mapping[str, Collection[str]]:
        """What the known agents offer that handle a message.

        Raises:
            BrokerUnavailable: Redis is away.
        """

    def by_task(self, task: str) -> Address | None:
        """The address of the agent's message that a task's name stands for, if it stands for one."""

    def hidden_in(self, address: Address) -> tuple[str, ...]:
        """The names of a message's secret fields."""
