"""The interface to barriers, which Redis and eager mode implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.coordination.barrier import Arriving, Ended, OnDeath, Reply, Status, Waiting, missing_names
from orchestrator.core.errors import BarrierBroken, InvalidPolicy, OrchestratorError, OwnerGone
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


@dataclass(frozen=True, slots=True)
class Arrived:
    """A party that has arrived."""

    party: str
    since_ms: int
    #: The incarnation or session that waits; empty if none does.
    owner: str = ""


@dataclass(frozen=True, slots=True)
class BarrierState:
    """A barrier as it is now."""

    name: str
    #: The number of the present generation, or of the last one if nobody has arrived since.
    generation: int
    parties: int
    #: The parties by name, if they are declared so.
    names: tuple[str, ...]
    on_death: OnDeath
    #: When the present generation breaks, in seconds since 1970; ``None`` if nobody has arrived.
    due_s: float | None
    #: Why it is broken; empty if it is not.
    broken: str
    #: How many have arrived.
    arrived: int
    #: How many are missing until it trips.
    missing: int
    #: Who has arrived, in order of names; of more than 200, some.
    present: tuple[Arrived, ...] = ()
    #: The parties that this generation does without, and why.
    gone: tuple[tuple[str, str], ...] = ()

    @property
    def missing_names(self) -> tuple[str, ...]:
        """The missing parties, if they are declared by name."""
        return missing_names(self.names, (one.party for one in self.present), (party for party, _ in self.gone))


class Barriers(ABC):
    """Barriers under names. Every method raises ``BrokerUnavailable`` while Redis cannot be reached."""

    @abstractmethod
    def arrive(
        self, name: str, request: Arriving, then: OutgoingMessage | None, if_broken: OutgoingMessage | None
    ) -> Reply:
        """Count a party, with the messages that are to be sent when the generation ends.

        Raises:
            OwnerGone: the owner was declared dead, or has ended.
            InvalidPolicy: the barrier is in use with other parties.
        """

    @abstractmethod
    def wait(self, name: str, generation: int, party: str, waiting: Waiting) -> Reply:
        """Ask what has become of a generation, and note that the party's process waits."""

    @abstractmethod
    def sleep(self, name: str, token: str, longest_s: float) -> None:
        """Sleep until the generation ends for which this token waits, or for a second."""

    @abstractmethod
    def leave(self, name: str, generation: int, party: str, token: str, reason: str) -> Reply:
        """Break a generation, because a party waits no more; while Redis is away that is done later, too."""

    @abstractmethod
    def reset(self, name: str, generation: int) -> bool:
        """Let the next generation begin; whether there was anything to reset."""

    @abstractmethod
    def read(self, name: str) -> BarrierState | None:
        """One barrier; ``None`` if it was not used for a week."""

    @abstractmethod
    def list(self, limit: int) -> Sequence[BarrierState]:
        """The barriers that were used last, the last one first."""


def refusal(name: str, request: Arriving, status: Status, stored: str = "") -> OrchestratorError:
    """The error for a party that was not counted."""
    if status is Status.GONE:
        return OwnerGone(request.owner)
    asked = f"{described(request.parties, request.names)}, on_death={request.on_death.value!r}"
    return InvalidPolicy("parties", asked, f"{stored}, with which barrier {name!r} is in use; reset() ends that")


def described(parties: int, names: Sequence[str]) -> object:
    """Parties as they are declared: by name, or a number of them."""
    return list(names) if names else parties


def broken(name: str, generation: int, names: Sequence[str], ended: Ended) -> BarrierBroken:
    """The error for a generation that is broken."""
    missing = missing_names(names, ended.arrived)
    return BarrierBroken(name, generation, ended.reason, ended.party, ended.arrived, ended.missing, missing)
