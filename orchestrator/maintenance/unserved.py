"""Mailboxes with messages and without a living worker: a warning and an event, by the monitor manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.core.plural import counted
from orchestrator.core.times import age
from orchestrator.registry.mailboxes import MailboxState
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: Seconds between two warnings about one mailbox.
_WARN_EVERY_S = 300.0

#: Mailboxes that one run names; with one mailbox per customer there may be thousands.
_NAMED = 20


def unserved_of(mailboxes: Iterable[MailboxState]) -> list[MailboxState]:
    """Mailboxes with messages and without a living worker, except the manager's own: any worker can sweep instead."""
    return [mailbox for mailbox in mailboxes if mailbox.unserved and mailbox.queue != HOUSEKEEPING_QUEUE]


def describe_unserved(mailbox: MailboxState) -> str:
    """One line about a mailbox that no living worker serves: its messages, and how long the oldest has waited."""
    count = mailbox.waiting + mailbox.delayed
    what = f"{counted(count, 'message')} in {mailbox.queue}, which no living worker serves"
    return (
        what if mailbox.oldest_waiting_s is None else f"{what}; the oldest has waited {age(mailbox.oldest_waiting_s)}"
    )


class UnservedCheck:
    """Warns about a mailbox that two runs in a row found unserved, so not while workers start or are replaced."""

    def __init__(self, mailboxes: Callable[[], Iterable[MailboxState]]) -> None:
        self._mailboxes = mailboxes
        self._seen: set[str] = set()
        self._warned_at: dict[str, float] = {}

    def run(self) -> int:
        """Check once. Returns the number of mailboxes it warned about.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        found = unserved_of(self._mailboxes())
        now = monotonic()
        due = [
            mailbox
            for mailbox in found
            if mailbox.queue in self._seen and now - self._warned_at.get(mailbox.queue, float("-inf")) > _WARN_EVERY_S
        ]
        self._seen = {mailbox.queue for mailbox in found}
        self._warned_at = {queue: at for queue, at in self._warned_at.items() if queue in self._seen}
        for number, mailbox in enumerate(due):
            self._warned_at[mailbox.queue] = now
            if number < _NAMED:
                logger.warning("%s", describe_unserved(mailbox))
            measured = {"waiting": mailbox.waiting, "oldest_s": mailbox.oldest_waiting_s or 0.0}
            emit(events.MAILBOX_UNSERVED, measured, agent=mailbox.queue)
        if len(due) > _NAMED:
            logger.warning(
                "%d more mailboxes have messages and no living worker; `agents` lists all", len(due) - _NAMED
            )
        return len(due)
