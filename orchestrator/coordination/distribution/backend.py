"""The backend of distributions: Redis, or this process in eager mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.delivery import Awaiter, Tracker
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


@dataclass(frozen=True, slots=True)
class AgentState:
    """The state of an agent."""

    #: Messages that its living incarnations run at once, all together; 0 if none lives.
    slots: int
    #: Messages in its mailbox that nobody has claimed.
    waiting: int = 0
    #: Messages that its workers have claimed.
    claimed: int = 0
    #: How many more messages its mailbox takes; ``None`` for any number.
    room: int | None = None
    #: Why it takes no more than that.
    refusal: Refusal | None = None

    @property
    def load(self) -> int:
        """Messages that wait and that its workers have."""
        return self.waiting + self.claimed


class OutgoingItem(NamedTuple):
    """An item on its way out. Most of it is the same for all items of a type for one agent."""

    #: A message of its type for its agent, with another id and other arguments.
    like: OutgoingMessage
    id: str
    args: list[Any]

    def message(self) -> OutgoingMessage:
        """The message itself."""
        return self.like.with_body(self.id, self.args)


@dataclass(frozen=True, slots=True)
class OnceOnly:
    """An idempotency key of a distribution, and what is recorded under it."""

    key: str
    ttl_ms: int
    record: str


class AcceptedBefore(Exception):
    """Another distribution was accepted under the key; not an error, so no part of the tree."""

    def __init__(self, record: str) -> None:
        super().__init__(record)
        self.record = record


class DistributionBackend(Protocol):
    """Reads how agents stand, and accepts items. Every method raises :class:`BrokerUnavailable` when Redis is away."""

    @property
    def awaiter(self) -> Awaiter:
        """Waits for one outcome."""

    @property
    def tracker(self) -> Tracker:
        """Looks up where deliveries are."""

    def prepare(self, message: OutgoingMessage) -> None:
        """Declare the flow control of a message's agent, if no worker has declared it yet."""

    def states(self, mailboxes: Mapping[str, str]) -> dict[str, AgentState]:
        """The states of agents, by their names; ``mailboxes`` has the mailbox of each."""

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """The hosts of the workers that serve each agent."""

    def accepted(self, key: str) -> str | None:
        """What is recorded under an idempotency key; ``None`` if nothing was accepted under it."""

    def accept(self, id: str, items: Sequence[OutgoingItem], once: OnceOnly | None = None) -> Mapping[str, Refusal]:
        """Accept all items or none; returns, by mailbox, why it does not take its items.

        Raises:
            AcceptedBefore: another distribution was accepted under the key of ``once``.
        """

    def outcomes(self, ids: Sequence[str], timeout_s: float) -> dict[str, Outcome]:
        """Wait for the outcomes of deliveries; those that have one by then are in it."""

    def counts(self) -> Mapping[str, int]:
        """Counters: ``distributions``, ``items``."""
