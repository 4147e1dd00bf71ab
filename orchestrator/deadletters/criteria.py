"""Which letters are meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.numbers import is_number
from orchestrator.deadletters.letter import DIMENSIONS, DeadLetter

STATES = ("open", "parked", "all")


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a letter must be to be meant; all that is given must hold.

    ``message`` is a message's name, or a plain task's. ``group`` is a fingerprint. Ages count from the burial.
    ``metadata``: these keys with these values. ``text``: occurs, in whatever case, in what is shown of the letter, so a
    secret cannot be searched for.

    Raises:
        InvalidPolicy: a value makes no sense.
    """

    agent: str | None = None
    message: str | None = None
    error: str | None = None
    reason: str | None = None
    group: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None
    metadata: Mapping[str, Any] | None = None
    text: str | None = None
    state: str = "open"

    def __post_init__(self) -> None:
        for name in (*DIMENSIONS, "text"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise InvalidPolicy(name, value, "a text")
        for name in ("older_than_s", "newer_than_s"):
            value = getattr(self, name)
            if value is not None and not is_number(value, 0, 1e10):
                raise InvalidPolicy(name, value, "seconds, 0 or more")
        if self.metadata is not None and not isinstance(self.metadata, Mapping):
            raise InvalidPolicy("metadata", self.metadata, "an object")
        if self.state not in STATES:
            raise InvalidPolicy("state", self.state, ", ".join(STATES))

    @property
    def indexed(self) -> tuple[tuple[str, str], ...]:
        """What an index answers: pairs of dimension and value."""
        return tuple((name, value) for name in DIMENSIONS if (value := getattr(self, name)) is not None)

    @property
    def selects(self) -> bool:
        """Whether anything was asked for but all letters, or all open ones."""
        given = {f.name for f in fields(self) if getattr(self, f.name) not in (None, {})} - {"state"}
        return bool(given) or self.state == "parked"

    @property
    def needs_reading(self) -> bool:
        """Whether the letter itself has to be looked at."""
        return bool(self.metadata) or self.text is not None

    def fits(self, letter: DeadLetter, hidden: tuple[str, ...]) -> bool:
        """Whether what no index answers holds too."""
        for name, value in (self.metadata or {}).items():
            if name not in letter.metadata or letter.metadata[name] != value:
                return False
        if self.text is None:
            return True
        return self.text.lower() in json.dumps(letter.shown(hidden), ensure_ascii=False).lower()

    def described(self) -> dict[str, Any]:
        """What was asked, for the record."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return {name: dict(value) if name == "metadata" else value for name, value in given.items()}


def check_limit(limit: int) -> None:
    """Refuse what says how many are wanted, and is no number of letters.

    Raises:
        InvalidPolicy: it is none.
    """
    if type(limit) is not int or limit < 0:
        raise InvalidPolicy("limit", limit, "a whole number from 0")
