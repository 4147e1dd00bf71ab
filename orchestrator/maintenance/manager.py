"""The monitor manager: the worker that consumes its mailbox. Beat publishes a message for each round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.maintenance import dead_letter_retention
from orchestrator.maintenance.chores import Chore, Chores
from orchestrator.maintenance.leak_check import LeakCheck
from orchestrator.maintenance.unserved import UnservedCheck

if TYPE_CHECKING:
    from orchestrator.runtime import Runtime

logger = get_logger(__name__)

QUEUE = HOUSEKEEPING_QUEUE
LEAKS_CHORE = "orchestrator.monitor-leaks"
UNSERVED_CHORE = "orchestrator.unserved-mailboxes"

RUNS_CHORE = "orchestrator.runs"

_UNSERVED_CHECK_INTERVAL_S = 10.0

_RUNS_CHECK_INTERVAL_S = 30.0


class Manager:
    """One round of housekeeping: a sweep, and then the chores that are due."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._chores = Chores(
            [
                Chore(
                    dead_letter_retention.CHORE,
                    settings.dead_letter_maintenance_interval_s,
                    runtime.maintain_dead_letters,
                ),
                Chore(UNSERVED_CHORE, _UNSERVED_CHECK_INTERVAL_S, UnservedCheck(runtime.mailboxes).run),
                Chore(RUNS_CHORE, _RUNS_CHECK_INTERVAL_S, runtime.maintain_runs),
                Chore(LEAKS_CHORE, settings.leak_check_every_s, LeakCheck(runtime.redis_monitors).run),
            ],
            lambda: runtime.store,
            settings.sweep_interval_s,
        )

    def run(self) -> list[str]:
        """Find dead workers and requeue their messages; then do the chores that are due. Returns their names."""
        swept = self._runtime.sweep()
        done = self._chores.do_due()
        logger.debug("swept: late=%d dead=%d moved=%d; chores: %s", swept.late, len(swept.dead), swept.moved, done)
        return done
