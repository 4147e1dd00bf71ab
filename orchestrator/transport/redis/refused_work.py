"""Repeated work of which Redis refuses one piece, while it serves all others."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orchestrator.core.errors import BrokerUnavailable, UnreadableKey
from orchestrator.transport.redis.refusals import is_of_one_command

#: Pieces of work of which it is remembered that they were logged.
_REMEMBERED = 1000


class RefusedWork:
    """Logs each refused piece of work, once; its caller goes on with the others.

    ``when`` says when it is tried again.
    """

    def __init__(self, logger: logging.Logger, when: str = "with each sweep") -> None:
        self._logger = logger
        self._when = when
        self._logged: set[str] = set()

    def last(self, work: Iterable[str], what: str) -> list[str]:
        """``work`` with what was refused before at the end: to be refused takes time, which the others need.

        Each is logged as ``what`` and its name.
        """
        return sorted(work, key=lambda name: f"{what} {name}" in self._logged)

    def pass_over(self, what: str, error: BrokerUnavailable) -> None:
        """Log that ``what`` was refused, unless that was done before.

        Raises:
            BrokerUnavailable: Redis is away, or takes no writes at all, so nothing else can be done either.
        """
        is_of_it = isinstance(error, UnreadableKey) or (error.__cause__ and is_of_one_command(error.__cause__))
        if not is_of_it:
            raise error
        if what not in self._logged:
            if len(self._logged) >= _REMEMBERED:
                self._logged.clear()
            self._logged.add(what)
            self._logger.warning("%s is tried again %s: %s", what, self._when, error)
