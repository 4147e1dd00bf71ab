"""What the log does by itself: retry, park, expire, and keep its length. A little at a time, by the monitor manager."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from orchestrator.core.outcome import Reason
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.replay import tell
from orchestrator.deadletters.shelf import BATCH, LOOK
from orchestrator.telemetry import emit, events

logger = logging.getLogger(__name__)

#: What may pass by itself. A message that is wrong stays wrong, and one that kills its workers goes on killing.
RETRIED = (Reason.EXHAUSTED.value, Reason.TIMEOUT.value, Reason.OVERFLOW.value)

#: A run does so much and leaves the rest to the next; it shares its queue with the sweep.
_BUDGET_S = 0.25

_WHO = "monitor-manager"

#: A retry that its mailbox refused is due again after as long as the first one waited, but after this at most.
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """How letters are kept. ``retries`` 0 switches automatic retries off."""

    keep_s: float = 86400.0
    most: int = 1_000_000
    retries: int = 0
    first_retry_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What one run did."""

    retried: int = 0
    parked: int = 0
    expired: int = 0
    trimmed: int = 0


def keep(log: DeadLetters, keeping: Keeping, *, budget_s: float = _BUDGET_S) -> Kept:
    """One run, of ``budget_s`` seconds at most and what a step takes.

    Raises:
        BrokerUnavailable: Redis is away; the next run goes on from here.
    """
    until = monotonic() + budget_s
    retried, parked = _retry(log, keeping, until) if keeping.retries else (0, 0)
    return Kept(retried, parked, _expire(log, keeping, until), _trim(log, keeping, until))


def _retry(log: DeadLetters, keeping: Keeping, until: float) -> tuple[int, int]:
    shelf = log.shelf
    parked = 0
    looked_at = 1
    while looked_at and monotonic() < until:
        looked_at, spent = shelf.plan(keeping.retries, round(keeping.first_retry_s * 1000), RETRIED, BATCH)
        if spent:
            act = log.begin("park", _WHO, "automatic retries used up")
            note = log.note(f"retried automatically {keeping.retries} times", _WHO)
            parked += shelf.park(spent, act, note)
    if parked:
        logger.warning("%d dead letters parked: their automatic retries are used up", parked)
        emit(events.PARKED, {"count": parked})
    return _send_due(log, keeping, until), parked


def _send_due(log: DeadLetters, keeping: Keeping, until: float) -> int:
    shelf = log.shelf
    pause_ms = round(min(keeping.first_retry_s, _LONGEST_PAUSE_S) * 1000)
    waiting: dict[str, None] = {}
    retried = kept = 0
    act = ""
    while monotonic() < until and (due := shelf.due(BATCH)):
        act = act or log.begin("retry", _WHO, "automatic")
        resent = shelf.resend(due, act, auto=True, watched=False)
        # What a full mailbox keeps out must not stand before the letters of others.
        shelf.put_off(resent.kept, pause_ms)
        # What names no queue would be due for ever.
        shelf.unplan(sorted({*due} - {*resent.kept} - {one.letter_id for one in resent.each()}))
        tell(resent)
        retried += resent.count
        kept += len(resent.kept)
        if resent.refusal is not None:
            waiting[str(resent.refusal)] = None
    if kept:
        logger.warning("%d automatic retries wait: %s", kept, "; ".join(islice(waiting, 3)))
    if act and not retried:
        # Else the operators' acts would make room for nothing.
        shelf.withdraw(act)
    return retried


def _expire(log: DeadLetters, keeping: Keeping, until: float) -> int:
    shelf = log.shelf
    high = str(max(0, shelf.now_ms() - round(keeping.keep_s * 1000)))
    # Parked letters do not expire. A round goes past them once, not in every run.
    mark = shelf.mark()
    low = f"({mark}" if mark else "-"
    removed = 0
    act = ""
    while monotonic() < until:
        found = shelf.find((), "open", low, high, limit=BATCH, oldest_first=True)
        if found.ids:
            act = act or log.begin("expire", _WHO, f"older than {keeping.keep_s:g} s")
            removed += shelf.remove(found.ids, act)
        shelf.mark(found.cursor)
        if not found.cursor:
            break
        low = f"({found.cursor}"
    if removed:
        logger.warning("%d dead letters expired unresolved, after %g s", removed, keeping.keep_s)
        emit(events.LETTERS_EXPIRED, {"count": removed}, reason="age")
    return removed


def _trim(log: DeadLetters, keeping: Keeping, until: float) -> int:
    shelf = log.shelf
    over = shelf.size() - keeping.most
    removed = 0
    act = ""
    for state in ("open", "parked"):
        low = "-"
        while over - removed > 0 and monotonic() < until:
            found = shelf.find((), state, low, "+", limit=min(BATCH, LOOK, over - removed), oldest_first=True)
            if found.ids:
                act = act or log.begin("trim", _WHO, f"more than {keeping.most}")
                removed += shelf.remove(found.ids, act)
            if not found.cursor:
                break
            low = f"({found.cursor}"
        else:
            break
    if removed:
        logger.warning("%d dead letters removed unresolved, the oldest of more than %d", removed, keeping.most)
        emit(events.LETTERS_EXPIRED, {"count": removed}, reason="length")
    return removed
