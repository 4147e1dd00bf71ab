"""The criteria of a search for dead letters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.deadletters.letter import DIMENSIONS, DeadLetter

STATES = ("open", "parked", "all")


@dataclass(frozen=True, slots=True)
class Criteria:
    """A letter matches if all criteria that are given hold.

    ``message`` is a message's name, or a plain task's. ``group`` is a fingerprint. An age is the time since the message
    became a letter. ``metadata``: the letter has these keys with these values. ``text`` occurs in the letter as it is
    shown, regardless of case; secrets are not shown, so they cannot be searched for.

    Raises:
        InvalidPolicy: a value is not allowed.
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
        """The criteria that the index answers, as pairs of dimension and value."""
        return tuple((name, value) for name in DIMENSIONS if (value := getattr(self, name)) is not None)

    @property
    def selects(self) -> bool:
        """Whether the criteria select anything but all letters, or all open ones."""
        given = {f.name for f in fields(self) if getattr(self, f.name) not in (None, {})} - {"state"}
        return bool(given) or self.state == "parked"

    @property
    def needs_reading(self) -> bool:
        """Whether letters have to be read, because the index does not answer all criteria."""
        return bool(self.metadata) or self.text is not None

    def fits(self, letter: DeadLetter, hidden: tuple[str, ...]) -> bool:
        """Whether a letter matches the criteria that the index does not answer."""
        for name, value in (self.metadata or {}).items():
            if name not in letter.metadata or letter.metadata[name] != value:
                return False
        if self.text is None:
            return True
        return self.text.lower() in json.dumps(letter.shown(hidden), ensure_ascii=False).lower()

    def described(self) -> dict[str, Any]:
        """The criteria that were given, for the audit entry."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return {name: dict(value) if name == "metadata" else value for name, value in given.items()}


def check_limit(limit: int) -> None:
    """Check a number of letters, groups or entries.

    Raises:
        InvalidPolicy: ``limit`` is not a whole number from 0.
    """
    if type(limit) is not int or limit < 0:
        raise InvalidPolicy("limit", limit, "a whole number from 0")
