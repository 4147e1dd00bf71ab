"""An object of which users take hold by a method, and not by entering it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn

from orchestrator.core.errors import InvalidPolicy


class NotEntered(ABC):
    """Its ``with`` is an error that says what to enter. For a type checker it has none."""

    @abstractmethod
    def _how_to_enter(self) -> str:
        """The code that takes hold of it."""

    if not TYPE_CHECKING:

        def __enter__(self) -> NoReturn:
            raise InvalidPolicy("with", self, self._how_to_enter())

        def __exit__(self, *error: object) -> None: ...
