"""`Delivery`: what a send returns, to wait for its outcome or cancel it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Any, Final, Protocol

from redis.exceptions import RedisError

from orchestrator.core.deliveries.history import Attempt, attempts_in, attempts_so_far
from orchestrator.core.deliveries.outcome import Handled, Outcome, from_wire
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import (
    DeliveryTimeout,
    DetachedDelivery,
    InvalidPolicy,
    SendFailed,
    UntrackedDelivery,
)
from orchestrator.core.policies.policy import OnError
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.telemetry import tracing
from orchestrator.transport.mailbox_entry import loads
from orchestrator.transport.redis.patience import outlast
from orchestrator.transport.store import Store

#: Longest wait that may be asked for: a day.
MAX_WAIT_S = 24 * 3600.0

#: With less time, it is only looked.
_LOOK_S: Final = 0.01

#: Waits for a recorded outcome, at most this number of seconds; ``None`` if there is none by then.
Awaiter = Callable[[str, float], Outcome | None]


class Status(StrEnum):
    """The place of a delivery between its acceptance and its outcome."""

    #: In its mailbox.
    PENDING = "pending"
    #: Not yet due: a countdown, or the pause before another attempt.
    SCHEDULED = "scheduled"
    #: With a worker that has not begun.
    CLAIMED = "claimed"
    RUNNING = "running"
    HANDLED = "handled"
    DEAD = "dead"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    #: Its task's own ``apply_async`` has not published it: not yet, or not at all.
    NOT_PUBLISHED = "not published"
    #: Nowhere: its record has expired, or it was sent with ``track=False`` and has ended.
    UNKNOWN = "unknown"


class CancelResult(StrEnum):
    """The result of cancelling."""

    #: It will not run; that is on record.
    CANCELLED = "cancelled"
    #: A worker has it and its pool can interrupt: the process that runs it is being ended.
    INTERRUPTING = "interrupting"
    #: A worker has it and its pool cannot interrupt: if it runs it ends as it ends, but there is no other attempt.
    WHEN_IT_ENDS = "when it ends"
    #: It has its outcome already.
    TOO_LATE = "too late"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Found:
    """A delivery on its way."""

    status: Status
    supervision: Supervision
    #: The incarnation that has it, if one has.
    holder: str = ""
    #: The deaths of those who ran it, as its entry has them.
    deaths: tuple[Any, ...] = ()


class Tracker(Protocol):
    """Knows where deliveries are. Every method raises :class:`BrokerUnavailable` when Redis is away."""

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """The record of an outcome, as JSON data."""

    def find(self, queue: str, delivery_id: str) -> Found | None:
        """Look for it in its mailbox."""

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        """Look for it in every mailbox; returns the mailbox, too."""

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        """See :meth:`Delivery.cancel`."""


@named_arguments
@dataclass(frozen=True, slots=True, repr=False)
class Delivery:
    """One accepted message on its way.

    It can be pickled, and then has no connection: pass it, or its id, to ``orchestrator.delivery()``.
    """

    id: str
    agent: str
    message: str
    on_error: OnError
    _await: Awaiter | None = field(default=None, compare=False)
    _tracker: Tracker | None = field(default=None, compare=False)
    #: Its mailbox.
    queue: str = ""
    #: The trace context that its message carries, if it was sent with tracing switched on.
    _trace: Mapping[str, Any] | None = field(default=None, compare=False)
    #: Whether its outcome is recorded.
    tracked: bool = True
    #: Whether its message was published when the send returned. One that its task's own ``apply_async`` puts off,
    #: until a transaction commits for instance, has this id when it comes.
    published: bool = True

    def __repr__(self) -> str:
        what = ".".join(name for name in (self.agent, self.message) if name)
        return f"<Delivery {self.id}{f' of {what}' if what else ''}>"

    def __reduce__(self) -> Any:
        return type(self), (*self._identity, None, None, self.queue, None, self.tracked, self.published)

    @property
    def _identity(self) -> tuple[str, str, str, OnError]:
        return self.id, self.agent, self.message, self.on_error

    def attached(self, awaiter: Awaiter, tracker: Tracker) -> Delivery:
        """The same delivery, with a connection."""
        return type(self)(*self._identity, awaiter, tracker, self.queue, self._trace, self.tracked, self.published)

    @property
    def _connected(self) -> Tracker:
        if self._tracker is None:
            raise DetachedDelivery(self.id)
        return self._tracker

    def status(self) -> Status:
        """Its status. Of one without an outcome, its mailbox is looked through: some ms per thousand that wait.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._where()[0]

    def history(self) -> tuple[Attempt, ...]:
        """The attempts so far: when and where each ended, and how.

        Those that their worker's death ended are among them.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._where()[1]

    def _where(self) -> tuple[Status, tuple[Attempt, ...]]:
        tracker = self._connected
        record = tracker.record(self.id)
        found = tracker.find(self.queue, self.id) if record is None else None
        if record is None and found is None:
            # It may have ended while it was looked for.
            record = tracker.record(self.id)
        if record is not None:
            return Status(str(record.get("outcome", Status.UNKNOWN))), attempts_in(record)
        return (
            (Status.UNKNOWN if self.published else Status.NOT_PUBLISHED, ())
            if found is None
            else (
                found.status,
                attempts_so_far(found.supervision, found.deaths),
            )
        )

    def cancel(self) -> CancelResult:
        """Have it not run. While it waits, it is removed and recorded as cancelled in one step.

        A worker that has it is told; what that comes to depends on its pool, and the answer says which.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._connected.cancel(self.queue, self.id)

    def outcome(self) -> Outcome | None:
        """The recorded outcome, or ``None`` while the delivery is pending (or its record has expired).

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._waiter(self.id, 0)

    @property
    def _waiter(self) -> Awaiter:
        if self._await is None:
            raise DetachedDelivery(self.id)
        return self._await

    def wait(self, timeout_s: float) -> Outcome:
        """Wait for the outcome, also while Redis is away.

        Raises:
            DeliveryTimeout: there is none after ``timeout_s`` seconds; the delivery goes on.
            SendFailed: it was sent with ``on_error="raise"`` and was not handled.
            UntrackedDelivery: it was sent with ``track=False``.
            DetachedDelivery: it was unpickled.
            BrokerUnavailable: Redis did not answer when ``timeout_s`` seconds had passed, so nobody knows; or it
                refused for good.
        """
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MAX_WAIT_S:
            raise InvalidPolicy("timeout_s", timeout_s, f"a number above 0, at most {MAX_WAIT_S:g}")
        if not self.tracked and self._tracker is not None and self._tracker.record(self.id) is None:
            raise UntrackedDelivery(self.id)
        with tracing.span(f"wait {self.agent}.{self.message}", "CLIENT", self._trace, id=self.id):
            outcome = self._waiter(self.id, timeout_s)
        if outcome is None:
            raise DeliveryTimeout(self.id, timeout_s)
        if self.on_error is OnError.RAISE and not isinstance(outcome, Handled):
            raise SendFailed(self.id, outcome)
        return outcome


def await_in(open_store: Callable[[], Store]) -> Awaiter:
    """Waits on the list of one element that the settling script leaves; it stays for the next who asks.

    While Redis is away it waits for that too.
    """

    def wait(delivery_id: str, timeout_s: float) -> Outcome | None:
        until = monotonic() + timeout_s
        store = outlast(until, open_store)
        key = store.keys.outcome(delivery_id)
        try:
            # Sleeping on a list that has its element is a look at it.
            raw: Any = outlast(until, lambda: store.client.lindex(key, 0)) if timeout_s <= _LOOK_S else None
            while raw is None and until > monotonic():
                raw = outlast(until, lambda: store.sleep_on(key, until))
        except RedisError as error:
            raise store.failure(error) from error
        with store.reading(key):
            return None if raw is None else from_wire(loads(raw))

    return wait
