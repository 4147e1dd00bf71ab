"""What is held: a lease, a permit of a semaphore, a resource of a pool, a term of an election."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.coordination.named_leases import Grant, NamedLeases, Wanted
from orchestrator.coordination.not_copied import NotCopied
from orchestrator.core.errors import InvalidPolicy, LeaseLost
from orchestrator.core.log import get_logger
from orchestrator.worker.execution.running_attempt import at_end

if TYPE_CHECKING:
    from typing import Self

logger = get_logger(__name__)

#: Makes the request at the moment of `with`, when its owner is known; returns where it goes, too.
MakeRequest = Callable[[], tuple[NamedLeases, Wanted]]


class Held(NotCopied):
    """A permit, once it is acquired. Used once; a ``with`` releases it at the end of its block.

    It ends with the block; with the attempt, if a handler acquired it, whatever becomes of its process; with the
    session's process or the worker, if that dies; or after its limit. Then :meth:`check` raises ``LeaseLost``.
    """

    def __init__(self, make_request: MakeRequest) -> None:
        self._make_request = make_request
        self._leases: NamedLeases | None = None
        self._grant: Grant | None = None
        self._is_entered = self._is_released = False

    def acquire(self) -> Self:
        """Wait for it. A ``with`` calls this, unless it is held already.

        Raises:
            LeaseTaken, PoolEmpty: nothing was free in time.
            LeaseHeld: this owner holds it already.
            NoOwner: no handler runs here and no session is open.
            OwnerGone: the owner was declared dead, or has ended.
            InvalidPolicy: others use the name with another number of permits, or it was acquired before.
            BrokerUnavailable: Redis was away for the whole time.
        """
        if self._grant is not None:
            raise InvalidPolicy("acquire", self._grant.name, "once; make another for the next time")
        self._leases, wanted = self._make_request()
        self._grant = self._leases.acquire(wanted)
        if wanted.owner.entry:
            at_end(self._end_of_attempt)
        return self

    def __enter__(self) -> Self:
        """Acquire it, unless that was done before. Raises as :meth:`acquire`, also if it is entered again."""
        if self._grant is None or self._is_entered or self._is_released:
            # A second `with` must not run its block without a permit of its own.
            self.acquire()
        self._is_entered = True
        return self

    def __exit__(self, *error: object) -> None:
        """Release it."""
        if self._held.owner.is_inherited():
            # The block goes on in the parent.
            return
        if not self._is_released and not self.release():
            logger.warning("%s %s was held no more when it was released", self._held.kind.value, self._held.name)

    @property
    def _held(self) -> Grant:
        if self._grant is None:
            what = type(self).__name__.lower()
            raise InvalidPolicy(
                what, "not acquired", f"one that was acquired: `with … as {what}:`, or {what}.acquire()"
            )
        return self._grant

    @property
    def name(self) -> str:
        """Its name."""
        return self._held.name

    @property
    def fence(self) -> int:
        """The fencing token: larger than that of each grant before under this name, also after a loss of Redis' data.

        Whatever is written while it is held should be refused where a larger one was seen.
        """
        return self._held.fence

    @property
    def owner(self) -> str:
        """The incarnation or session that holds it."""
        return self._held.owner.id

    def check(self) -> None:
        """Ask Redis whether it is still held. That it is says nothing of the next moment: the fence does.

        Raises:
            LeaseLost: it is not.
            NoOwner: this process is a fork of the one that acquired it.
            BrokerUnavailable: Redis is away, so nobody knows.
        """
        grant = self._held
        grant.owner.refuse_fork(grant.kind.value)
        if self._is_released or self._leases is None or not self._leases.is_held(grant):
            raise LeaseLost(grant.kind.value, grant.name, grant.fence)

    def release(self) -> bool:
        """Give it back before the block ends; returns whether it was still held.

        While Redis is away it is released as soon as Redis answers, or ends with its owner. In a forked child of its
        process nothing is released.
        """
        if self._held.owner.is_inherited():
            return False
        grant, self._is_released = self._held, True
        return self._leases is not None and self._leases.release(grant, self._reason)

    #: Why it ends if it is released.
    _reason = "released"

    def _end_of_attempt(self) -> None:
        if not self._is_released:
            self._reason = "attempt ended"
            self.release()

    def __repr__(self) -> str:
        if self._grant is None:
            return f"<{type(self).__name__} not acquired>"
        return f"<{type(self).__name__} {self.name!r} fence={self.fence}>"


class Lease(Held):
    """A named lease: at most one holder at a time is granted it."""


class Permit(Held):
    """A permit of a semaphore."""


class Checkout(Held):
    """A resource of a pool."""

    @property
    def resource(self) -> str:
        """The resource."""
        return self._held.resource
