"""Addresses of requests: those of messages, with the policy of a request, worked out once for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from orchestrator.core.policies.effective import Policy
from orchestrator.sending.address import Address, Addresses

#: Addresses that are remembered.
_MOST: Final = 1000


class RequestAddresses:
    """Looks addresses up, and has the values of one policy override theirs, as if each send gave them."""

    def __init__(self, addresses: Addresses, policy: Policy) -> None:
        self.timeouts = addresses.timeouts
        self._addresses = addresses
        self._policy = policy
        #: By agent and message: the address as it was found, and with the policy.
        self._known: dict[tuple[str, str], tuple[Address, Address]] = {}

    def address(self, recipient: Any, message: str) -> Address:
        """See :class:`orchestrator.sending.address.Addresses`."""
        found = self._addresses.address(recipient, message)
        known = self._known.get((found.agent, message))
        if known is None or known[0] is not found:
            if len(self._known) >= _MOST:
                self._known.clear()
            changed = replace(found, policy=found.policy.over("send", self._policy))
            known = self._known[found.agent, message] = found, changed
        return known[1]
