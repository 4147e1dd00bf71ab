"""Semaphores and pools."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.coordination.checks import checked_name, checked_wait_s
from orchestrator.coordination.lease import Checkout, Permit
from orchestrator.coordination.named_leases import NamedLeases, NameState, Wanted
from orchestrator.coordination.not_entered import NotEntered
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.worker.execution.owner import Owner


@named_arguments
class Semaphore(NotEntered):
    """A number of permits under a name. Everybody who uses the name has to name the same number."""

    def __init__(self, leases: NamedLeases, owner: Callable[[str], Owner], name: str, permits: int) -> None:
        self.name = name
        self.permits = permits
        self._leases = leases
        self._owner = owner

    def acquire(self, wait_s: float = 0.0) -> Permit:
        """Wait for a permit; first come, first served. A ``with`` releases it at the end of its block.

        Raises:
            InvalidPolicy: ``wait_s`` is out of range, or others use the name with another number of permits.
            LeaseTaken: no permit was free in time.
            NoOwner, OwnerGone, BrokerUnavailable: as :meth:`Held.acquire`.
        """
        checked = checked_wait_s(wait_s)

        def ask() -> tuple[NamedLeases, Wanted]:
            owner = self._owner("permit")
            return self._leases, Wanted(Kind.SEMAPHORE, self.name, owner, checked, permits=self.permits)

        return Permit(ask).acquire()

    def state(self) -> NameState | None:
        """Who holds permits, and how many wait; ``None`` if it was not used for a week."""
        return self._leases.read(Kind.SEMAPHORE, self.name)

    def _how_to_enter(self) -> str:
        return f"with orchestrator.semaphore({self.name!r}, permits={self.permits}).acquire(wait_s=…):"

    def __repr__(self) -> str:
        return f"<Semaphore {self.name!r} permits={self.permits}>"


@named_arguments
class Pool(NotEntered):
    """Resources under a name, each held by one at a time. Everybody who uses the name has to name the same ones."""

    def __init__(
        self, leases: NamedLeases, owner: Callable[[str], Owner], name: str, resources: tuple[str, ...]
    ) -> None:
        self.name = name
        self.resources = resources
        self._leases = leases
        self._owner = owner

    def checkout(self, wait_s: float = 0.0) -> Checkout:
        """Wait for a free resource; first come, first served. A ``with`` gives it back at the end of its block.

        Raises:
            InvalidPolicy: ``wait_s`` is out of range, or others use the name with other resources.
            PoolEmpty: no resource was free in time.
            NoOwner, OwnerGone, BrokerUnavailable: as :meth:`Held.acquire`.
        """
        checked = checked_wait_s(wait_s)

        def ask() -> tuple[NamedLeases, Wanted]:
            asked = Kind.POOL, self.name, self._owner("resource"), checked
            return self._leases, Wanted(*asked, permits=len(self.resources), resources=self.resources)

        return Checkout(ask).acquire()

    def check_in(self, resource: str) -> bool:
        """Give a resource back by its name; ``False``, and an event, if this owner does not hold it.

        Raises:
            InvalidPolicy: it is no name of a resource.
            NoOwner: no handler runs here and no session is open.
            BrokerUnavailable: Redis is away.
        """
        return self._leases.check_in(self.name, checked_name(resource, "resource"), self._owner("resource"))

    def state(self) -> NameState | None:
        """What is checked out by whom, and how many wait; ``None`` if it was not used for a week."""
        return self._leases.read(Kind.POOL, self.name)

    def _how_to_enter(self) -> str:
        return f"with orchestrator.pool({self.name!r}, …).checkout(wait_s=…) as held:"

    def __repr__(self) -> str:
        return f"<Pool {self.name!r} of {len(self.resources)}>"
