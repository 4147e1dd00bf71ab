"""The demo's numbers, each counted from what Redis holds when everything has its outcome. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.deadletters.letter import DeadLetter
from orchestrator.registry.registry import Death
from orchestrator.sending.ledger import LedgerRow
from workers.auditors import Summary
from workers.chaos import Kill, Recovery, recovery
from workers.records import Start

#: Steps of the workflow beside the audits.
_STEPS = 2


@dataclass(frozen=True, slots=True)
class Tally:
    """How a demo ended."""

    #: The auditors' mailbox.
    ledger: LedgerRow
    #: What the workflow's last step has returned.
    summary: Summary
    letters: Sequence[DeadLetter]
    #: Executions of an attempt after its first, which a death cut short or which ran twice.
    duplicated: int
    #: Workers that were declared dead; a clean shutdown is not counted.
    workers_killed: int
    #: Pool processes that died of the message they ran, according to the dead letters.
    pool_kills: int
    kill: Kill | None
    recovery: Recovery | None

    @property
    def kills(self) -> int:
        """Processes that died while they ran a message."""
        return self.workers_killed + self.pool_kills

    @property
    def balanced(self) -> bool:
        """Whether every accepted message was handled, and is in the summary, or is in the dead-letter log."""
        row = self.ledger
        return (
            row.balanced
            and row.pending == 0
            and row.accepted == row.handled + row.dead
            and row.dead == len(self.letters)
            # The files, and the steps before and after them.
            and row.handled == self.summary.files + _STEPS
        )

    @property
    def last_line(self) -> str:
        """The last line of the demo."""
        row = self.ledger
        recovered_s = self.recovery.last_s if self.recovery is not None else 0.0
        return (
            f"demo: accepted={row.accepted} handled={row.handled} dead={row.dead} pending={row.pending} "
            f"lost={row.lost} duplicated={self.duplicated} kills={self.kills} recovered_s={recovered_s:.2f}"
        )


def tally(
    ledger: LedgerRow,
    summary: Summary,
    letters: Sequence[DeadLetter],
    deaths: Iterable[Death],
    starts: Sequence[Start],
    kill: Kill | None,
) -> Tally:
    """Count the outcomes and deaths of a run."""
    died_ms = {death.incarnation: death.at_ms for death in deaths if not death.is_planned}
    executions = Counter((start.delivery, start.attempt) for start in starts)
    return Tally(
        ledger=ledger,
        summary=summary,
        letters=letters,
        duplicated=sum(times - 1 for times in executions.values()),
        workers_killed=len(died_ms),
        pool_kills=sum(_pool_deaths(letter, died_ms) for letter in letters),
        kill=kill,
        recovery=None if kill is None else recovery(kill, starts),
    )


def _pool_deaths(letter: DeadLetter, died_ms: dict[str, int]) -> int:
    """Deaths of pool processes on a letter; deaths of whole workers are left out, because sweeps count these."""
    return sum(1 for death in letter.deaths if death["at"] < died_ms.get(str(death["by"]), death["at"] + 1))
