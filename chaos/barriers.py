"""Barriers under chaos: some parties wait, in sessions beside the workers; others, in the workers, leave a message."""

from __future__ import annotations

from typing import Any, Final, Literal

from chaos.witness import witness
from orchestrator import Agent, BarrierBroken, Context, Message, Orchestrator, Retry, handles
from orchestrator.coordination.barriers.barrier import Arrival, Barrier

#: The agent, and its mailbox.
MUSTER: Final = "muster"

#: What the death of a party that waits does to each barrier.
ON_DEATH: Final[dict[str, Literal["break", "shrink"]]] = {"muster-break": "break", "muster-shrink": "shrink"}

PARTIES: Final = 4

#: For how long a generation goes on, and for how long somebody waits at most, in seconds.
TIMEOUT_S: Final = 4.0
_WAIT_S: Final = 8.0


class Join(Message):
    """Has its delivery arrive."""

    barrier: str


class Mustered(Message):
    """What a party has left."""

    has_tripped: bool


class Muster(Agent):
    """Arrives, and gets the messages that it has left."""

    name = MUSTER
    retry = Retry(max_retries=3)

    @handles(Join)
    def join(self, message: Join, context: Context) -> None:
        """Arrive, and go on."""
        barrier = barrier_of(context.orchestrator, message.barrier)
        _arrive(barrier, context.id, then=Mustered(has_tripped=True), if_broken=Mustered(has_tripped=False))

    @handles(Mustered)
    def mustered(self, message: Mustered, context: Context) -> None:
        """Write to the witness what became of the generation."""
        witness().write("mustered", node=context.worker, delivery=context.id, tripped=message.has_tripped)


def barrier_of(orchestrator: Orchestrator, name: str) -> Barrier:
    """One of the two."""
    return orchestrator.barrier(name, PARTIES, timeout_s=TIMEOUT_S, on_death=ON_DEATH[name])


def meet(orchestrator: Orchestrator, name: str, party: str) -> None:
    """Arrive as the session that is open here, and wait until the generation ends."""
    barrier = barrier_of(orchestrator, name)
    arrival = _arrive(barrier, party)
    if arrival is None:
        return
    where: dict[str, Any] = {"barrier": name, "party": party, "generation": arrival.generation}
    try:
        arrival.wait(_WAIT_S)
    except BarrierBroken as broken:
        witness().write("broke off", **where, reason=broken.reason)
        barrier.reset(broken.generation)
    except BaseException as error:
        witness().write("gave up", **where, error=str(error)[:200])
        raise
    else:
        witness().write("passed", **where)


def _arrive(barrier: Barrier, party: str, **left: Message) -> Arrival | None:
    """Arrive, waiting for what follows unless a message is left; a broken barrier is reset instead."""
    where: dict[str, Any] = {"barrier": barrier.name, "party": party}
    witness().write("arriving", **where)
    try:
        arrival = barrier.arrive(party, **left)
    except BarrierBroken as broken:
        witness().write("refused", **where, generation=broken.generation, reason=broken.reason)
        barrier.reset(broken.generation)
        return None
    witness().write("arrived", **where, generation=arrival.generation, waits=not left)
    return arrival
