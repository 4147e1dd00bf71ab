"""Agents whose living workers declare different limits: a warning, by the monitor manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from orchestrator.core.admission.declared_limits import Difference
from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: Differences that one run names.
_NAMED: Final = 20


class DifferingLimitsCheck:
    """Warns once about a difference that two runs in a row have found, so not while workers are replaced quickly."""

    def __init__(self, differences: Callable[[], Iterable[Difference]]) -> None:
        self._differences = differences
        #: The agent, the policy and the values of those of the last run, and whether each was warned of.
        self._seen: dict[tuple[str, ...], bool] = {}

    def run(self) -> int:
        """Check once. Returns the number of differences it warned about.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        found = {(one.agent, one.policy, *(value for value, _ in one.values)): one for one in self._differences()}
        due = [key for key in found if self._seen.get(key) is False]
        self._seen = {key: key in self._seen for key in found}
        for key in due[:_NAMED]:
            logger.warning("%s", found[key])
        if len(due) > _NAMED:
            logger.warning("%d more limits differ between workers; `agents` lists all", len(due) - _NAMED)
        return len(due)
