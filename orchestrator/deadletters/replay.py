"""Sending many letters again: at a pace, and with a canary that goes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from orchestrator.core.errors import InvalidPolicy
from orchestrator.deadletters.shelf import BATCH, Sent, Settled, Shelf
from orchestrator.telemetry import emit, events

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
    lots: tuple[int, ...] = (1, 10, 100)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failure_rate <= 1:
            raise InvalidPolicy("max_failure_rate", self.max_failure_rate, "0 to 1")
        if not 0 < self.wait_s <= 86400:
            raise InvalidPolicy("wait_s", self.wait_s, "seconds, above 0, at most a day")
        if not self.lots or not all(1 <= lot <= BATCH for lot in self.lots):
            raise InvalidPolicy("lots", self.lots, f"one or more numbers from 1 to {BATCH}")


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
        return BATCH if self._rate is None else max(1, min(BATCH, int(self._rate / 10)))

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


def replay(
    shelf: Shelf,
    batches: Iterable[Sequence[str]],
    act: str,
    pace: Pace,
    canary: Canary | None,
    progress: Callable[[int], None] | None,
) -> Replayed:
    """Send letters again until there are none left, the canary stops it, or a mailbox takes no more."""
    total = silent = 0
    stopped = ""
    for lot in batches if canary is None else _in_lots(batches, canary.lots):
        sent: list[Sent] = []
        for ids in _in_pieces(lot, pace.batch):
            resent = shelf.resend(ids, act, auto=False, watched=canary is not None)
            for one in resent.sent:
                emit(events.REPLAYED, letter_id=one.letter_id, queue=one.queue)
            sent += resent.sent
            if progress is not None:
                progress(len(ids) - len(resent.kept))
            if resent.refusal is not None:
                stopped = str(resent.refusal)
                break
            pace.sent(len(resent.sent))
        total += len(sent)
        if canary is not None and not stopped:
            settled, stopped = _watch(shelf, sent, act, total, silent, canary)
            silent += settled.silent
        if stopped:
            break
    dead = shelf.deaths_of(act) + silent
    if stopped:
        emit(events.REPLAY_STOPPED, {"sent": total, "dead": dead}, act=act, why=stopped)
    return Replayed(act, total, dead, stopped)


def _in_pieces(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))


def _in_lots(batches: Iterable[Sequence[str]], sizes: Sequence[int]) -> Iterator[list[str]]:
    waiting: list[str] = []
    number = 0
    for ids in batches:
        waiting += ids
        while len(waiting) >= (size := sizes[min(number, len(sizes) - 1)]):
            yield waiting[:size]
            del waiting[:size]
            number += 1
    if waiting:
        yield waiting


def _watch(
    shelf: Shelf, sent: Sequence[Sent], act: str, total: int, silent: int, canary: Canary
) -> tuple[Settled, str]:
    """How a lot fared, and why the replay is to stop if it is; ``silent`` deaths are of the lots before."""
    until = monotonic() + canary.wait_s
    pause = threading.Event()
    while True:
        settled = shelf.settled(sent)
        dead = shelf.deaths_of(act) + silent + settled.silent
        known = total - len(sent) + settled.ended
        if known and dead / known > canary.max_failure_rate:
            return settled, f"{dead} of {known} have died again; at most {canary.max_failure_rate:.0%} may"
        left = len(sent) - settled.ended
        if not left:
            return settled, ""
        if monotonic() > until:
            return settled, f"{left} of {len(sent)} have not come to an end within {canary.wait_s:g} s"
        pause.wait(_LOOK_S)
