"""A ring of agents that wait for each other in calls, as `begin_wait.lua` finds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ring:
    """The agents of a ring, in their order, and where they find no slot."""

    #: Each calls the next; the first and the last are the one whose call closes the ring.
    agents: tuple[str, ...]
    #: For each agent, the incarnation whose slot it has, where the agent before it needs that slot; '' where the agent
    #: before it has called it.
    slots: tuple[str, ...]

    @classmethod
    def decode(cls, reply: Iterable[bytes]) -> Ring | None:
        """The ring that the script has found, if any."""
        texts = [raw.decode() for raw in reply]
        return cls(tuple(texts[::2]), tuple(texts[1::2])) if texts else None

    def __str__(self) -> str:
        return " → ".join(self.agents)

    def no_slot(self, own: str) -> str:
        """Says of each agent that is called where it finds no free slot because another has it; mostly empty."""
        return "; ".join(self._no_slots(own))

    def _no_slots(self, own: str) -> Iterator[str]:
        for number, incarnation in enumerate(self.slots):
            if incarnation:
                needs, has = self.agents[number - 1 : number + 1]
                worker = f"this worker, {incarnation}," if incarnation == own else incarnation
                yield f"{worker} has no free slot for {needs} while it runs {has}"
