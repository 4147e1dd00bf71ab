"""What the log does by itself: retry, park, expire, and keep its length. A little at a time, by the monitor manager."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from time import monotonic

from orchestrator.core.log import get_logger
from orchestrator.core.outcome import Reason
from orchestrator.core.plural import counted
from orchestrator.core.times import age
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.replay import tell
from orchestrator.deadletters.store import BATCH, LOOK
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: What may pass by itself. A message that is wrong stays wrong, and one that kills its workers goes on killing.
RETRIED = (Reason.EXHAUSTED.value, Reason.TIMEOUT.value, Reason.OVERFLOW.value)

#: A run does so much and leaves the rest to the next; it shares its thread with the sweep.
_BUDGET_S = 0.25

_WHO = "monitor-manager"

#: A retry that its mailbox refused is due again after as long as the first one waited, but after this at most.
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How letters are kept. ``retries`` 0 switches automatic retries off."""

    keep_s: float = 86400.0
    most: int = 1_000_000
    retries: int = 0
    first_retry_s: float = 60.0


@dataclass(frozen=True, slots=True)
class MaintenanceResult:
    """What one run did."""

    retried: int = 0
    parked: int = 0
    expired: int = 0
    trimmed: int = 0


def run_maintenance(log: DeadLetters, retention: RetentionPolicy, *, budget_s: float = _BUDGET_S) -> MaintenanceResult:
    """One run, of ``budget_s`` seconds at most and what a step takes.

    Each part has its share of them, so that none keeps another from its work; what is left over goes to the retries.

    Raises:
        BrokerUnavailable: Redis is away; the next run goes on from here.
    """
    share_s = budget_s / 4
    until = monotonic() + budget_s
    retries = _Retries(log, retention)
    parked = 0
    if retention.retries:
        parked = _plan(log, retention, monotonic() + share_s)
        retries.send(monotonic() + share_s)
    expired = _expire(log, retention, monotonic() + share_s)
    trimmed = _trim(log, retention, monotonic() + share_s)
    if retention.retries:
        retries.send(until)
    return MaintenanceResult(retries.ended(), parked, expired, trimmed)


def _plan(log: DeadLetters, retention: RetentionPolicy, until: float) -> int:
    store = log.store
    parked = 0
    looked_at = 1
    while looked_at and monotonic() < until:
        looked_at, spent = store.plan(retention.retries, round(retention.first_retry_s * 1000), RETRIED, BATCH)
        if spent:
            act = log.begin("park", _WHO, "automatic retries used up")
            note = log.note(f"retried automatically {counted(retention.retries, 'time')}", _WHO)
            parked += len(store.park(spent, act, note))
    if parked:
        logger.warning("%s parked: no automatic retry is left", counted(parked, "dead letter"))
        emit(events.PARKED, {"count": parked})
    return parked


class _Retries:
    """What one run sends again."""

    def __init__(self, log: DeadLetters, retention: RetentionPolicy) -> None:
        self._log = log
        self._pause_ms = round(min(retention.first_retry_s, _LONGEST_PAUSE_S) * 1000)
        self._waiting: dict[str, None] = {}
        self._retried = self._kept = 0
        self._act = ""

    def send(self, until: float) -> None:
        """Send what is due, as much as there is time for."""
        store = self._log.store
        while monotonic() < until and (due := store.due(BATCH)):
            self._act = self._act or self._log.begin("retry", _WHO, "automatic")
            replayed = store.replay(due, self._act, auto=True, watched=False)
            # What a full mailbox keeps out must not stand before the letters of others.
            store.put_off(replayed.kept, self._pause_ms)
            # What names no queue would be due for ever.
            store.unplan(sorted({*due} - {*replayed.kept} - {one.letter_id for one in replayed.each()}))
            tell(replayed)
            self._retried += replayed.count
            self._kept += len(replayed.kept)
            if replayed.refusal is not None:
                self._waiting[str(replayed.refusal)] = None

    def ended(self) -> int:
        """Say what there is to say; returns how many were sent."""
        if self._kept:
            logger.warning(
                "%s waiting: %s",
                counted(self._kept, "automatic retry", "automatic retries"),
                "; ".join(islice(self._waiting, 3)),
            )
        if self._act and not self._retried:
            # Else the operators' acts would make room for nothing.
            self._log.store.withdraw(self._act)
        return self._retried


def _expire(log: DeadLetters, retention: RetentionPolicy, until: float) -> int:
    store = log.store
    high = str(max(0, store.now_ms() - round(retention.keep_s * 1000)))
    # Parked letters do not expire. A round goes past them once, not in every run.
    mark = store.mark()
    low = f"({mark}" if mark else "-"
    removed = 0
    act = ""
    while monotonic() < until:
        found = store.find((), "open", low, high, limit=BATCH, oldest_first=True)
        if found.ids:
            act = act or log.begin("expire", _WHO, f"older than {retention.keep_s:g} s")
            removed += len(store.remove(found.ids, act))
        store.mark(found.cursor)
        if not found.cursor:
            break
        low = f"({found.cursor}"
    if removed:
        logger.warning("%s expired unresolved, after %s", counted(removed, "dead letter"), age(retention.keep_s))
        emit(events.LETTERS_EXPIRED, {"count": removed}, reason="age")
    return removed


def _trim(log: DeadLetters, retention: RetentionPolicy, until: float) -> int:
    store = log.store
    over = store.size() - retention.most
    removed = 0
    act = ""
    for state in ("open", "parked"):
        low = "-"
        while over - removed > 0 and monotonic() < until:
            found = store.find((), state, low, "+", limit=min(BATCH, LOOK, over - removed), oldest_first=True)
            if found.ids:
                act = act or log.begin("trim", _WHO, f"more than {retention.most}")
                removed += len(store.remove(found.ids, act))
            if not found.cursor:
                break
            low = f"({found.cursor}"
        else:
            break
    if removed:
        logger.warning("%s removed unresolved: more than %d are kept", counted(removed, "dead letter"), retention.most)
        emit(events.LETTERS_EXPIRED, {"count": removed}, reason="length")
    return removed
