"""What the rules of coordination ask about owners, in a test's hands."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.coordination.lease import Life


class Owners:
    """Owners that live until the test says otherwise, and the attempts that they run."""

    def __init__(self, owners: Iterable[str]) -> None:
        self.lives = dict.fromkeys(owners, Life.ALIVE)
        self.reasons: dict[str, str] = {}
        self.entries: dict[str, str] = {}

    def life(self, owner: str) -> Life:
        """Whether it lives."""
        return self.lives[owner]

    def has_entry(self, owner: str, entry: str) -> bool:
        """Whether the attempt with this entry still runs."""
        return self.entries.get(entry) == owner

    def reason(self, owner: str) -> str:
        """Why it has died."""
        return self.reasons.get(owner, "lost")
