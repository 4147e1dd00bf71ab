"""Logs the passes of a scheduler that Redis does not carry out: once for each outage, and once for each refusal."""

from __future__ import annotations

from time import monotonic
from typing import Final

from redis.exceptions import ReadOnlyError, ResponseError

from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: Between two attempts while Redis is away.
AWAY_S: Final = 0.25

#: Between two attempts while Redis refuses them.
REFUSED_S: Final = 1.0


class FailedPasses:
    """The failed passes of one scheduler."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._away_since: float | None = None
        #: The last error with which Redis refused a pass.
        self._refused = ""

    @property
    def is_away(self) -> bool:
        """Whether Redis was away at the last pass."""
        return self._away_since is not None

    def log(self, error: Exception) -> float:
        """Log why a pass has failed; returns the seconds until the next one."""
        if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError):
            if str(error) != self._refused:
                self._refused = str(error)
                logger.error(
                    "scheduler %s: Redis refuses a pass, next try in %g s: %s", self._scheduler, REFUSED_S, error
                )
            return REFUSED_S
        if self._away_since is None:
            self._away_since = monotonic()
            logger.warning("scheduler %s: Redis is away, nothing is fired: %s", self._scheduler, error)
        return AWAY_S

    def end(self) -> bool:
        """A pass has succeeded. Returns whether Redis was away before it."""
        self._refused = ""
        was_away = self._away_since is not None
        if self._away_since is not None:
            logger.info("scheduler %s: Redis is back after %.1f s", self._scheduler, monotonic() - self._away_since)
            self._away_since = None
        return was_away
