"""Maintenance of the dead-letter log by the monitor manager: automatic replays, parking, expiry, maximum length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from time import monotonic

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.errors import RunEnded
from orchestrator.core.log import get_logger
from orchestrator.core.plural import counted
from orchestrator.core.times import age
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.replay import emit_replayed
from orchestrator.deadletters.store import BATCH, CANDIDATES_PER_STEP
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: Reasons whose cause may pass without a change to the message or the code.
TRANSIENT_REASONS = (Reason.EXHAUSTED.value, Reason.TIMEOUT.value, Reason.OVERFLOW.value)

#: Seconds that one run works; the next run continues. It shares its thread with the sweep.
_BUDGET_S = 0.25

_WHO = "monitor-manager"

#: A refused replay is postponed by the delay before a first replay, but at most by this.
_MAX_POSTPONE_S = 60.0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The retention of letters: for how long, and how many. ``auto_replays=0`` switches automatic replays off."""

    ttl_s: float = 86400.0
    max_count: int = 1_000_000
    auto_replays: int = 0
    first_replay_s: float = 60.0


@dataclass(frozen=True, slots=True)
class MaintenanceResult:
    """Letters that one run replayed, parked, removed as too old, and removed as too many."""

    replayed: int = 0
    parked: int = 0
    expired: int = 0
    trimmed: int = 0


def run_maintenance(log: DeadLetters, retention: RetentionPolicy, *, budget_s: float = _BUDGET_S) -> MaintenanceResult:
    """Do one run, which takes at most ``budget_s`` seconds and one step.

    Each part may use a quarter of the budget; automatic replays use what is left over.

    Raises:
        BrokerUnavailable: Redis cannot be reached; the next run continues from here.
    """
    share_s = budget_s / 4
    until = monotonic() + budget_s
    replays = _AutomaticReplays(log, retention)
    parked = 0
    if retention.auto_replays:
        parked = _schedule(log, retention, monotonic() + share_s)
        replays.run(monotonic() + share_s)
    expired = _expire(log, retention, monotonic() + share_s)
    trimmed = _trim(log, retention, monotonic() + share_s)
    if retention.auto_replays:
        replays.run(until)
    return MaintenanceResult(replays.finish(), parked, expired, trimmed)


def _schedule(log: DeadLetters, retention: RetentionPolicy, until: float) -> int:
    """Schedule automatic replays of new letters, and park letters that have none left; returns how many it parked."""
    store = log.store
    first_ms = round(retention.first_replay_s * 1000)
    parked = 0
    examined = 1
    while examined and monotonic() < until:
        examined, used_up = store.schedule(retention.auto_replays, first_ms, TRANSIENT_REASONS, BATCH)
        if used_up:
            audit_id = log.record("park", _WHO, "automatic replays used up")
            note = log.park_note(f"replayed automatically {counted(retention.auto_replays, 'time')}", _WHO)
            parked += len(store.park(used_up, audit_id, note))
    if parked:
        logger.warning("%s parked: automatic replays used up", counted(parked, "dead letter"))
        emit(events.PARKED, {"count": parked})
    return parked


class _AutomaticReplays:
    """The automatic replays of one run."""

    def __init__(self, log: DeadLetters, retention: RetentionPolicy) -> None:
        self._log = log
        self._postpone_ms = round(min(retention.first_replay_s, _MAX_POSTPONE_S) * 1000)
        self._refusals: dict[str, None] = {}
        self._replayed = self._postponed = self._refused = 0
        self._audit_id = ""

    def run(self, until: float) -> None:
        """Replay letters that are due, until the time is up."""
        store = self._log.store
        while monotonic() < until and (due := store.due(BATCH)):
            self._audit_id = self._audit_id or self._log.record("replay", _WHO, "automatic")
            result = store.replay(due, self._audit_id, auto=True, watched=False)
            postponed: list[str] = []
            for refused in result.refusals:
                self._refusals[str(refused.why)] = None
                if isinstance(refused.why, RunEnded):
                    # Its run never takes it again.
                    self._refused += len(refused.letter_ids)
                else:
                    postponed += refused.letter_ids
            # Refused letters would otherwise be first again, before letters to other mailboxes.
            store.postpone(postponed, self._postpone_ms)
            # Letters that name no queue would otherwise be due for ever.
            store.unschedule(sorted({*due} - {*postponed} - {one.letter_id for one in result.each()}))
            emit_replayed(result)
            self._replayed += result.count
            self._postponed += len(postponed)

    def finish(self) -> int:
        """Log refusals; returns how many letters were replayed."""
        for count, what in ((self._postponed, "postponed"), (self._refused, "given up")):
            if count:
                logger.warning(
                    "%s %s: %s", counted(count, "automatic replay"), what, "; ".join(islice(self._refusals, 3))
                )
        if self._audit_id and not self._replayed:
            # Entries without an effect would displace those of operators.
            self._log.store.remove_audit_entry(self._audit_id)
        return self._replayed


def _expire(log: DeadLetters, retention: RetentionPolicy, until: float) -> int:
    """Remove open letters older than ``ttl_s``; returns how many."""
    store = log.store
    high = str(max(0, store.now_ms() - round(retention.ttl_s * 1000)))
    # Parked letters do not expire; the cursor makes one round of several runs, so that not every run reads them again.
    cursor = store.expiry_cursor()
    low = f"({cursor}" if cursor else "-"
    removed = 0
    audit_id = ""
    while monotonic() < until:
        found = store.find((), "open", low, high, limit=BATCH, oldest_first=True)
        if found.ids:
            audit_id = audit_id or log.record("expire", _WHO, f"older than {retention.ttl_s:g} s")
            removed += len(store.remove(found.ids, audit_id))
        store.save_expiry_cursor(found.cursor)
        if not found.cursor:
            break
        low = f"({found.cursor}"
    if removed:
        logger.warning("%s expired unresolved, after %s", counted(removed, "dead letter"), age(retention.ttl_s))
        emit(events.LETTERS_EXPIRED, {"count": removed}, reason="age")
    return removed


def _trim(log: DeadLetters, retention: RetentionPolicy, until: float) -> int:
    """Remove the oldest letters above ``max_count``, open ones first; returns how many."""
    store = log.store
    excess = store.size() - retention.max_count
    removed = 0
    audit_id = ""
    for state in ("open", "parked"):
        low = "-"
        while excess - removed > 0 and monotonic() < until:
            limit = min(BATCH, CANDIDATES_PER_STEP, excess - removed)
            found = store.find((), state, low, "+", limit=limit, oldest_first=True)
            if found.ids:
                audit_id = audit_id or log.record("trim", _WHO, f"more than {retention.max_count}")
                removed += len(store.remove(found.ids, audit_id))
            if not found.cursor:
                break
            low = f"({found.cursor}"
        else:
            break
    if removed:
        logger.warning(
            "%s removed unresolved: the log keeps at most %d", counted(removed, "dead letter"), retention.max_count
        )
        emit(events.LETTERS_EXPIRED, {"count": removed}, reason="length")
    return removed
