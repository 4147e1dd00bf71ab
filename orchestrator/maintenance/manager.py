"""The monitor manager: the worker that consumes its mailbox. Beat publishes a message for each round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.maintenance.chores import Chore, Chores
from orchestrator.maintenance.dead_letter_retention import CHORE as LETTERS_CHORE
from orchestrator.maintenance.dead_letter_retention import maintain_dead_letters
from orchestrator.maintenance.dead_letters import MaintenanceResult
from orchestrator.maintenance.differing_limits import DifferingLimitsCheck
from orchestrator.maintenance.leak_check import LeakCheck
from orchestrator.maintenance.unserved import UnservedCheck
from orchestrator.registry.registry import differing_limits

if TYPE_CHECKING:
    from orchestrator.wiring.runtime import Runtime

logger = get_logger(__name__)

QUEUE = HOUSEKEEPING_QUEUE
LEAKS_CHORE = "orchestrator.monitor-leaks"
UNSERVED_CHORE = "orchestrator.unserved-mailboxes"

LIMITS_CHORE = "orchestrator.differing-limits"

RUNS_CHORE = "orchestrator.runs"

_UNSERVED_CHECK_INTERVAL_S = 10.0

_LIMITS_CHECK_INTERVAL_S = 30.0

_RUNS_CHECK_INTERVAL_S = 30.0


class Manager:
    """Does the monitor manager's work in rounds: a sweep, and then the chores that are due. Not thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._chores = Chores(
            [
                Chore(
                    LETTERS_CHORE,
                    settings.dead_letter_maintenance_interval_s,
                    self._maintain_dead_letters,
                ),
                Chore(
                    UNSERVED_CHORE,
                    _UNSERVED_CHECK_INTERVAL_S,
                    UnservedCheck(lambda: runtime.mode.statistics.mailboxes()).run,
                ),
                Chore(
                    LIMITS_CHORE,
                    _LIMITS_CHECK_INTERVAL_S,
                    DifferingLimitsCheck(lambda: differing_limits(runtime.redis.registry.incarnations())).run,
                ),
                Chore(RUNS_CHORE, _RUNS_CHECK_INTERVAL_S, lambda: runtime.redis.maintain_runs()),
                Chore(LEAKS_CHORE, settings.leak_check_every_s, LeakCheck(lambda: runtime.redis.monitors).run),
            ],
            lambda: runtime.store,
            settings.sweep_interval_s,
        )

    def run(self) -> list[str]:
        """Find dead workers and requeue their messages; then do the chores that are due. Returns their names.

        Raises:
            BrokerUnavailable, redis.exceptions.RedisError: Redis is away.
        """
        swept = self._runtime.redis.sweep()
        done = self._chores.do_due()
        logger.debug("swept: late=%d dead=%d moved=%d; chores: %s", swept.late, len(swept.dead), swept.moved, done)
        return done

    def _maintain_dead_letters(self) -> MaintenanceResult:
        return maintain_dead_letters(self._runtime.mode.dead_letters, self._runtime.settings)
