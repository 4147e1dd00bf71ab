"""Semaphores and pools."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.coordination.checks import checked_name, checked_wait_s
from orchestrator.coordination.lease import Checkout, Permit
from orchestrator.coordination.named_leases import NamedLeases, NameState, Wanted
from orchestrator.core.lease import Kind
from orchestrator.worker.owner import Owner


class Semaphore:
    """A number of permits under a name. Everybody who uses the name has to name the same number."""

    def __init__(self, leases: NamedLeases, owner: Callable[[str], Owner], name: str, permits: int) -> None:
        self.name = name
        self.permits = permits
        self._leases = leases
        self._owner = owner

    def acquire(self, wait_s: float = 0.0) -> Permit:
        """A permit, to be used in a ``with``, which waits for it; first come, first served.

        Raises:
            InvalidPolicy: ``wait_s`` is out of range. The ``with`` raises as :meth:`Held.acquire`.
        """
        checked = checked_wait_s(wait_s)

        def ask() -> tuple[NamedLeases, Wanted]:
            owner = self._owner("permit")
            return self._leases, Wanted(Kind.SEMAPHORE, self.name, owner, checked, permits=self.permits)

        return Permit(ask)

    def state(self) -> NameState | None:
        """Who holds permits, and how many wait; ``None`` if it was not used for a week."""
        return self._leases.read(Kind.SEMAPHORE, self.name)


class Pool:
    """Resources under a name, each held by one at a time. Everybody who uses the name has to name the same ones."""

    def __init__(
        self, leases: NamedLeases, owner: Callable[[str], Owner], name: str, resources: tuple[str, ...]
    ) -> None:
        self.name = name
        self.resources = resources
        self._leases = leases
        self._owner = owner

    def checkout(self, wait_s: float = 0.0) -> Checkout:
        """A free resource, to be used in a ``with``, which waits for it; first come, first served.

        Raises:
            InvalidPolicy: ``wait_s`` is out of range. The ``with`` raises as :meth:`Held.acquire`.
        """
        checked = checked_wait_s(wait_s)

        def ask() -> tuple[NamedLeases, Wanted]:
            asked = Kind.POOL, self.name, self._owner("resource"), checked
            return self._leases, Wanted(*asked, permits=len(self.resources), resources=self.resources)

        return Checkout(ask)

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
