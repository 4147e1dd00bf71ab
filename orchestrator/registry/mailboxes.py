"""The state of mailboxes: what waits in them, for how long, their bound and breaker, and who serves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from orchestrator.core.admission.breaker import Phase, shown
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_number, stored_text
from orchestrator.registry.registry import IncarnationEntry
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: Mailboxes that one script reads, which takes a few milliseconds.
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class MailboxState:
    """The state of one mailbox."""

    queue: str
    #: Messages that are due and not claimed.
    waiting: int = 0
    #: Those of the waiting messages that wait behind an open breaker (``when_open="queue"``).
    deferred: int = 0
    #: Those of the waiting messages that wait in lanes for others of their key (:class:`Concurrency`).
    in_lanes: int = 0
    #: Messages that are not yet due.
    delayed: int = 0
    #: Messages that a worker has claimed and not settled.
    held: int = 0
    #: Seconds since the oldest waiting message came into the mailbox or became due. ``None`` if no message waits, or if
    #: that message is too large to read.
    oldest_waiting_s: float | None = None
    #: The mailbox' bound, and what happens to messages beyond it; ``None`` and empty if it has no bound.
    limit: int | None = None
    overflow: str = ""
    #: State of the circuit breaker, half-open also once its time is over; ``None`` if there is none.
    breaker: Phase | None = None
    #: Seconds until an open breaker lets a probe through.
    breaker_open_for_s: float = 0.0
    #: Why the breaker was isolated by hand; '' if it is not isolated.
    breaker_isolated: str = ""
    #: The host for whose workers it is on hold (see ``orchestrator supervise``); '' if it is not.
    on_hold_for: str = ""
    #: The living incarnations that consume from it.
    served_by: tuple[str, ...] = ()

    @property
    def unserved(self) -> bool:
        """Whether messages wait and no living incarnation consumes from the mailbox."""
        return not self.served_by and self.waiting + self.delayed > 0


def read_mailboxes(store: Store, incarnations: Iterable[IncarnationEntry]) -> list[MailboxState]:
    """The state of every mailbox, by name.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    served: dict[str, list[str]] = {}
    for incarnation in incarnations:
        for queue in incarnation.queues:
            served.setdefault(queue, []).append(incarnation.id)
    try:
        queues = sorted(store.client.smembers(store.keys.queues))
    except RedisError as error:
        raise store.failure(error) from error
    return list(read_some(store, queues, served))


def read_some(
    store: Store, queues: Sequence[bytes | str], served: Mapping[str, Sequence[str]] | None = None
) -> Iterator[MailboxState]:
    """The state of some mailboxes, in their order.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    at = 0
    while at < len(queues):
        answer = store.run(*commands.mailbox_states(store.keys, store.levels, queues[at : at + _AT_ONCE]))
        # The script reads fewer mailboxes if messages are large.
        at += len(answer)
        for raw, waiting, delayed, held, oldest_ms, limit, overflow, phase, open_ms, why, *further in answer:
            queue = raw.decode("utf-8", "replace")
            flow = store.keys.flow(queue)
            deferred, lanes, hold = further
            yield MailboxState(
                queue=queue,
                waiting=waiting,
                deferred=deferred,
                in_lanes=lanes,
                delayed=delayed,
                held=held,
                oldest_waiting_s=None if oldest_ms < 0 else oldest_ms / 1000,
                limit=stored_number(flow, "limit", limit) or None,
                overflow=stored_text(overflow),
                breaker=shown(_phase(flow, phase), open_ms) if phase else None,
                breaker_open_for_s=open_ms / 1000,
                breaker_isolated=why.decode("utf-8", "replace"),
                on_hold_for=hold.decode("utf-8", "replace"),
                served_by=tuple((served or {}).get(queue, ())),
            )


def _phase(flow: str, raw: bytes) -> Phase:
    """A breaker's phase. One that is none is logged, and shown as isolated: the breaker admits nothing then."""
    try:
        return Phase(stored_text(raw))
    except ValueError:
        logger.error("%s: phase is %r; allowed: %s", flow, stored_text(raw), ", ".join(Phase))
        return Phase.ISOLATED
