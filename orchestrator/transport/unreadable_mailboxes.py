"""The mailboxes that cannot be read, because something else has written one of their keys. Others go on being read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Final

from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: Pause before such a mailbox is read again.
_AGAIN_S: Final = 1.0

#: For how long a mailbox must have been readable before its next fault is logged anew. One of which the doorbell alone
#: is broken can be claimed from, and not slept at.
_FORGET_S: Final = 5.0


class UnreadableMailboxes:
    """Those of one channel. ``describe`` makes the log's text of a mailbox and Redis' error.

    A claim from several mailboxes fails as a whole. Each of them is then claimed from by itself, so that the one shows
    which cannot be read.
    """

    def __init__(self, describe: Callable[[str, str], str], clock: Callable[[], float] = monotonic) -> None:
        self._describe = describe
        self._clock = clock
        #: Mailbox -> when it is claimed from by itself.
        self._alone_at: dict[str, float] = {}
        #: Mailbox that was logged -> when it could not be read last.
        self._logged_at: dict[str, float] = {}

    def suspect(self, queues: Iterable[str]) -> None:
        """One of these cannot be read: each is claimed from by itself."""
        self._alone_at |= dict.fromkeys(queues, self._clock())

    def found(self, unreadable: Mapping[str, str]) -> None:
        """These cannot be read, for these errors of Redis; those that were readable before are logged."""
        now = self._clock()
        for queue, why in unreadable.items():
            if queue not in self._logged_at:
                logger.error(
                    "mailbox %s cannot be read, and is tried again every %g s; others are read on: %s",
                    queue, _AGAIN_S, self._describe(queue, why),
                )  # fmt: skip
            self._logged_at[queue] = now
            self._alone_at[queue] = now + _AGAIN_S

    def was_read(self, queue: str) -> None:
        """A claim from this mailbox alone was served."""
        self._alone_at.pop(queue, None)

    def next_alone(self, queues: Iterable[str]) -> str:
        """The mailbox that is to be claimed from by itself now; empty if there is none."""
        if not self._logged_at and not self._alone_at:
            return ""
        now = self._clock()
        for queue in [one for one, at in self._logged_at.items() if now - at > _FORGET_S and one not in self._alone_at]:
            del self._logged_at[queue]
            logger.info("mailbox %s can be read again", queue)
        return next((queue for queue in queues if self._alone_at.get(queue, now + 1) <= now), "")

    def readable(self, queues: Iterable[str]) -> list[str]:
        """Those of the mailboxes that may be read together."""
        return [queue for queue in queues if queue not in self._alone_at]

    def longest_sleep_ms(self, longest_ms: int) -> int:
        """How long a sleep may last, so that a mailbox which is left out is tried again in time."""
        if not self._alone_at:
            return longest_ms
        left_s = min(self._alone_at.values()) - self._clock()
        return max(1, min(longest_ms, round(left_s * 1000)))
