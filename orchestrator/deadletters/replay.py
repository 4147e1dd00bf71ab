"""Sending many letters again: at a pace, and with a canary that goes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from time import monotonic

from orchestrator.core.errors import InvalidPolicy
from orchestrator.deadletters.store import BATCH, DeadLetterStore, ReplayedLetter, ReplayProgress, ReplayResult
from orchestrator.telemetry import emit, events, heard
from orchestrator.transport.redis.patience import outlast

#: Letters sent in one step where nothing holds them back: some ten milliseconds, in which the client's work is lost.
_FREELY = 200

#: Between two looks at how the canary fares.
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Canary:
    """One letter goes first, then ten, then the others a hundred at a time; each lot waits for the one before.

    It stops when, of those whose end is known, more than ``max_failure_rate`` have died again, or when a lot has not
    come to its end within ``wait_s``.

    Raises:
        InvalidPolicy: a value makes no sense.
    """

    max_failure_rate: float = 0.1
    wait_s: float = 60.0
    batches: tuple[int, ...] = (1, 10, 100)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failure_rate <= 1:
            raise InvalidPolicy("max_failure_rate", self.max_failure_rate, "0 to 1")
        if not 0 < self.wait_s <= 86400:
            raise InvalidPolicy("wait_s", self.wait_s, "seconds, above 0, at most a day")
        if not self.batches or not all(1 <= lot <= BATCH for lot in self.batches):
            raise InvalidPolicy("lots", self.batches, f"one or more numbers from 1 to {BATCH}")


class Pace:
    """So many letters a second at most.

    Raises:
        InvalidPolicy: ``rate_per_s`` is not above 0.
    """

    def __init__(self, rate_per_s: float | None) -> None:
        if rate_per_s is not None and not 0 < rate_per_s <= 1e6:
            raise InvalidPolicy("rate_per_s", rate_per_s, "letters a second, above 0")
        self._rate = rate_per_s
        self._began = monotonic()
        self._sent = 0
        self._pause = threading.Event()

    @property
    def batch(self) -> int:
        """Letters sent in one step: a tenth of a second's, so that the rate holds within the second too."""
        return _FREELY if self._rate is None else max(1, min(BATCH, int(self._rate / 10)))

    def sent(self, count: int) -> None:
        """Wait until the next may be sent."""
        self._sent += count
        if self._rate is not None:
            self._pause.wait(max(0.0, self._sent / self._rate - (monotonic() - self._began)))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay."""

    act: str
    sent: int
    #: Of those sent, how many were dead letters anew when it ended; those a canary watched count without a letter too.
    dead: int
    #: Why it was stopped, by the canary or by a mailbox that took no more; empty if all were sent.
    stopped: str = ""


#: Sends the next letters again, at most so many; ``None`` when there are none left.
Source = Callable[[int], ReplayResult | None]


def tell(replayed: ReplayResult) -> None:
    """Emit an event for each letter that was sent again."""
    if heard(events.REPLAYED):
        for one in replayed.each():
            emit(events.REPLAYED, letter_id=one.letter_id, queue=one.queue)


def replay(
    store: DeadLetterStore,
    source: Source,
    act: str,
    pace: Pace,
    canary: Canary | None,
    progress: Callable[[int], None] | None,
    on_sent: Callable[[ReplayedLetter], None] | None = None,
) -> Replayed:
    """Send letters again until there are none left, the canary stops it, or a mailbox takes no more."""
    total = silent = 0
    stopped = ""
    ended = False
    for size in _sizes((pace.batch,) if canary is None else canary.batches):
        left = size
        sent: list[ReplayedLetter] = []
        while left > 0 and not stopped:
            replayed = source(min(left, pace.batch))
            if replayed is None:
                ended = True
                break
            tell(replayed)
            if on_sent is not None:
                for one in replayed.each():
                    on_sent(one)
            total += replayed.count
            if canary is not None:
                sent += replayed.each()
            if progress is not None:
                progress(replayed.came_to - len(replayed.kept))
            left -= replayed.came_to
            if replayed.refusal is not None:
                stopped = str(replayed.refusal)
            else:
                pace.sent(replayed.count)
        if canary is not None and sent and not stopped:
            settled, stopped = _watch(store, sent, act, total, silent, canary)
            silent += settled.silent
        if stopped or ended:
            break
    dead = store.deaths_of(act) + silent
    if silent:
        # No letter tells of these.
        store.progress(act, "dead", silent)
    if stopped:
        emit(events.REPLAY_STOPPED, {"sent": total, "dead": dead}, act=act, why=stopped)
    return Replayed(act, total, dead, stopped)


def _sizes(batches: Sequence[int]) -> Iterator[int]:
    return chain(batches, repeat(batches[-1]))


def _watch(
    store: DeadLetterStore, sent: Sequence[ReplayedLetter], act: str, total: int, silent: int, canary: Canary
) -> tuple[ReplayProgress, str]:
    """How a lot fared, and why the replay is to stop if it is; ``silent`` deaths are of the lots before."""
    until = monotonic() + canary.wait_s
    pause = threading.Event()
    while True:
        settled = outlast(until, lambda: store.settled(sent))
        dead = outlast(until, lambda: store.deaths_of(act)) + silent + settled.silent
        known = total - len(sent) + settled.ended
        if known and dead / known > canary.max_failure_rate:
            return settled, f"{dead} of {known} have died again; at most {canary.max_failure_rate:.0%} may"
        left = len(sent) - settled.ended
        if not left:
            return settled, ""
        if monotonic() > until:
            return settled, f"{left} of {len(sent)} have not come to an end within {canary.wait_s:g} s"
        pause.wait(_LOOK_S)
