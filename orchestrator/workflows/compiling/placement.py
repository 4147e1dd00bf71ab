"""Placement of a step that says what it needs: the agents that it may go to, and what its message is for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import NoAgents
from orchestrator.core.policies.effective import Policy
from orchestrator.sending.address import Address, Directory
from orchestrator.sending.messages.agent_messages import build_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions

#: Most agents that a step may be placed with; of more, the first by their names.
MOST_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Placement:
    """The needs of a step, and its message for each agent that offers them."""

    needs: tuple[str, ...]
    message: str
    #: The fields of the message, with references in the form that workers replace.
    values: Any
    options: CheckedOptions
    within_s: float | None
    #: The names of its secret fields.
    hide: tuple[str, ...]
    candidates: tuple[OutgoingMessage, ...]

    @property
    def within_ms(self) -> int | None:
        """After how many ms a step without a living candidate is dead."""
        return None if self.within_s is None else max(1, to_ms(self.within_s))

    @property
    def plan_options(self) -> dict[str, Any]:
        """The placement as the plan of its step has it."""
        options: dict[str, Any] = {"needs": list(self.needs)}
        return options if self.within_ms is None else {**options, "within_ms": self.within_ms}

    def send(self, *, has_references: bool) -> dict[str, Any]:
        """The data with which the message is written for an agent that is known later, as JSON."""
        return {
            "message": self.message,
            "policy": self.options.policy.to_wire(),
            "metadata": dict(self.options.metadata),
            "hide": list(self.hide),
            "refs": has_references,
        }

    def unaddressed(self) -> OutgoingMessage:
        """The message without an agent: its arguments, and which of them are masked."""
        return OutgoingMessage("", "", [self.values], Supervision(hide=self.hide))


def placement_of(
    directory: Directory,
    message: str,
    values: Any,
    needs: tuple[str, ...],
    within_s: float | None,
    options: CheckedOptions,
    hide: tuple[str, ...],
) -> Placement:
    """The placement of a message.

    Raises:
        NoAgents: no known agent handles it and offers all, and the step is not to wait for one.
        InvalidPolicy: its policy has values that contradict each other.
        BrokerUnavailable: Redis is away.
    """
    addresses = directory.offering(message, needs)[:MOST_CANDIDATES]
    if not addresses and within_s is None:
        raise NoAgents(message, needs, directory.capabilities(message))
    candidates = tuple(_addressed(directory, address, [values], options, hide) for address in addresses)
    return Placement(needs, message, values, options, within_s, hide, candidates)


def message_for(directory: Directory, address: Address, send: Mapping[str, Any]) -> OutgoingMessage:
    """The message for an agent, but for its arguments, from what a run keeps of it (see :meth:`Placement.send`)."""
    options = CheckedOptions(Policy.from_wire(send["policy"]), metadata=send["metadata"])
    return _addressed(directory, address, (), options, tuple(send["hide"]))


def _addressed(
    directory: Directory, address: Address, args: Any, options: CheckedOptions, hide: tuple[str, ...]
) -> OutgoingMessage:
    return lasting(
        build_message(
            directory.timeouts,
            options,
            id="",
            task=address.task,
            args=args,
            agent=address.agent,
            message=address.message,
            policy=address.policy,
            queue=address.queue,
            hide=hide,
        )
    )


def lasting(message: OutgoingMessage) -> OutgoingMessage:
    """The message without expiry and deadline, which count from its acceptance: that time is not known yet."""
    if message.expires_s is None and message.supervision.deadline_at_s is None:
        return message
    return replace(message, expires_s=None, supervision=replace(message.supervision, deadline_at_s=None))
