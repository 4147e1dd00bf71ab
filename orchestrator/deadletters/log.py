"""What can be asked of dead letters, and what can be done with them."""

from __future__ import annotations

from typing import Protocol

from orchestrator.deadletters.letter import DeadLetter


class DeadLetters(Protocol):
    """The dead-letter log. Redis keeps it (:mod:`.stream`); eager mode keeps it in memory (:mod:`.memory`)."""

    def list(self, limit: int = 50, *, before: str | None = None) -> list[DeadLetter]:
        """Newest first; ``before`` an id for the next page."""
        ...

    def count(self) -> int:
        """How many there are."""
        ...

    def get(self, letter_id: str) -> DeadLetter:
        """One letter. Raises :class:`~orchestrator.core.errors.UnknownDeadLetter`."""
        ...

    def retry(self, letter_id: str) -> str:
        """Send it again, once, however many ask at the same time; returns the queue.

        Raises :class:`~orchestrator.core.errors.UnknownDeadLetter`.
        """
        ...

    def purge(self) -> int:
        """Remove all; returns how many."""
        ...
