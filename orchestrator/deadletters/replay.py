"""Replaying many letters: at a rate, and with a canary that goes first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from time import monotonic

from orchestrator.core.errors import InvalidPolicy, RunEnded, StepGoesOn
from orchestrator.deadletters.store import BATCH, LetterReplayer, ReplayedLetter, ReplayProgress, ReplayResult
from orchestrator.telemetry import emit, events, has_handlers
from orchestrator.transport.redis.patience import outlast

#: Letters replayed in one step without a rate: some 10 ms of Redis, next to which the client's own time is small.
_BATCH_WITHOUT_RATE = 200

#: Seconds between two looks at the canary's outcomes.
_LOOK_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Canary:
    """Replays 1 letter, then 10, then the others 100 at a time; each batch waits for the outcomes of the one before.

    The replay stops when more than ``max_failure_rate`` (0 to 1) of the letters with a known outcome have died again,
    or when a batch has not ended within ``wait_s`` seconds.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    max_failure_rate: float = 0.1
    wait_s: float = 60.0
    batches: tuple[int, ...] = (1, 10, 100)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failure_rate <= 1:
            raise InvalidPolicy("max_failure_rate", self.max_failure_rate, "0 to 1")
        if not 0 < self.wait_s <= 86400:
            raise InvalidPolicy("wait_s", self.wait_s, "seconds, above 0, at most a day")
        if not self.batches or not all(1 <= size <= BATCH for size in self.batches):
            raise InvalidPolicy("batches", self.batches, f"one or more numbers from 1 to {BATCH}")


class RateLimit:
    """At most ``rate_per_s`` letters a second; ``None`` for no limit.

    Raises:
        InvalidPolicy: ``rate_per_s`` is not above 0.
    """

    def __init__(self, rate_per_s: float | None) -> None:
        if rate_per_s is not None and not 0 < rate_per_s <= 1e6:
            raise InvalidPolicy("rate_per_s", rate_per_s, "letters a second, above 0")
        self._rate = rate_per_s
        self._began = monotonic()
        self._replayed = 0
        self._pause = threading.Event()

    @property
    def batch(self) -> int:
        """Letters replayed in one step: those of 0.1 s, so that the rate holds within a second too."""
        return _BATCH_WITHOUT_RATE if self._rate is None else max(1, min(BATCH, int(self._rate / 10)))

    def wait_after(self, count: int) -> None:
        """Count ``count`` replayed letters, and wait until the next one may be replayed."""
        self._replayed += count
        if self._rate is not None:
            self._pause.wait(max(0.0, self._replayed / self._rate - (monotonic() - self._began)))


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a bulk replay."""

    audit_id: str
    sent: int
    #: Letters among those sent that were dead again when the replay ended; with a canary also those without a letter.
    dead: int
    #: Why the replay stopped early: the canary's verdict, or a mailbox that refused; empty if all were replayed.
    stopped: str = ""
    #: Number of letters whose runs refused them, by the reason; they stay in the log.
    refused: Mapping[str, int] = field(default_factory=dict)
    #: Number of letters that name no mailbox, or had left the log before their turn.
    skipped: int = 0


#: Replays the next letters, at most as many as its argument; returns ``None`` when no letter is left.
Source = Callable[[int], ReplayResult | None]


def emit_replayed(result: ReplayResult) -> None:
    """Emit one event per replayed letter."""
    if has_handlers(events.REPLAYED):
        for one in result.each():
            emit(events.REPLAYED, letter_id=one.letter_id, queue=one.queue)


def replay_all(
    store: LetterReplayer,
    source: Source,
    audit_id: str,
    rate: RateLimit,
    canary: Canary | None,
    progress: Callable[[int], None] | None,
    on_sent: Callable[[ReplayedLetter], None] | None = None,
) -> Replayed:
    """Replay letters until none is left, the canary stops the replay, or a mailbox refuses."""
    total = dead_without_letter = skipped = 0
    refused: Counter[str] = Counter()
    stopped = ""
    at_end = False
    for size in _sizes((rate.batch,) if canary is None else canary.batches):
        left = size
        batch: list[ReplayedLetter] = []
        while left > 0 and not stopped:
            result = source(min(left, rate.batch))
            if result is None:
                at_end = True
                break
            emit_replayed(result)
            if on_sent is not None:
                for replayed in result.each():
                    on_sent(replayed)
            total += result.count
            if canary is not None:
                batch += result.each()
            if progress is not None:
                progress(result.processed - result.refused_count)
            # A letter that was refused says nothing about the others, so it is none of a canary's batch.
            left -= result.count
            skipped += result.processed - result.count - result.refused_count
            for one in result.refusals:
                if isinstance(one.why, RunEnded | StepGoesOn):
                    # An error that refuses one letter only does not stop the others.
                    refused[str(one.why)] += len(one.letter_ids)
                else:
                    stopped = stopped or str(one.why)
            if not stopped:
                rate.wait_after(result.count)
        if canary is not None and batch and not stopped:
            ended, stopped = _watch(store, batch, audit_id, total, dead_without_letter, canary)
            dead_without_letter += ended.dead_without_letter
        if stopped or at_end:
            break
    dead = _finish(store, audit_id, total, dead_without_letter, stopped)
    return Replayed(audit_id, total, dead, stopped, dict(refused), skipped)


def _finish(store: LetterReplayer, audit_id: str, total: int, dead_without_letter: int, stopped: str) -> int:
    """Record the end of a replay; returns how many letters are dead again."""
    dead = store.count_dead_again(audit_id) + dead_without_letter
    if dead_without_letter:
        # The scripts count only deaths that leave a letter.
        store.add_dead_again(audit_id, dead_without_letter)
    if stopped:
        emit(events.REPLAY_STOPPED, {"sent": total, "dead": dead}, audit_id=audit_id, why=stopped)
    return dead


def _sizes(batches: Sequence[int]) -> Iterator[int]:
    return chain(batches, repeat(batches[-1]))


def _watch(
    store: LetterReplayer,
    batch: Sequence[ReplayedLetter],
    audit_id: str,
    total: int,
    dead_without_letter: int,
    canary: Canary,
) -> tuple[ReplayProgress, str]:
    """Wait for a batch to end; returns its progress, and why the replay must stop if it must.

    ``dead_without_letter`` counts such deaths of the batches before.
    """
    until = monotonic() + canary.wait_s
    pause = threading.Event()
    while True:
        batch_progress = outlast(until, lambda: store.replay_progress(batch))
        dead = outlast(until, lambda: store.count_dead_again(audit_id))
        dead += dead_without_letter + batch_progress.dead_without_letter
        known = total - len(batch) + batch_progress.ended
        if known and dead / known > canary.max_failure_rate:
            return batch_progress, f"{dead} of {known} have died again; at most {canary.max_failure_rate:.0%} may"
        left = len(batch) - batch_progress.ended
        if not left:
            return batch_progress, ""
        if monotonic() > until:
            return batch_progress, f"{left} of {len(batch)} have not ended within {canary.wait_s:g} s"
        pause.wait(_LOOK_INTERVAL_S)
