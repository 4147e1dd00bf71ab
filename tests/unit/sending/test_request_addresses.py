"""The policy of a request, worked out once for each address."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator import Retry
from orchestrator.core.policies.effective import Policy, merge
from orchestrator.core.policies.policy import OnError, WhenDown
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.sending.address import Address
from orchestrator.sending.calls.request_addresses import RequestAddresses

REQUEST = Policy(retry=Retry(max_retries=0), on_error=OnError.IGNORE, when_down=WhenDown.ERROR)


class Known:
    """Addresses that change now and then."""

    def __init__(self) -> None:
        self.timeouts = Timeouts()
        policy = merge(("agent", Policy(retry=Retry(max_retries=7), timeout_s=3)))
        self.found = Address("billing", "Charge", "billing.Charge", "billing", policy)

    def address(self, recipient: Any, message: str) -> Address:
        return replace(self.found, agent=recipient, message=message)


class Cached(Known):
    """The same address as long as nothing changes."""

    def address(self, recipient: Any, message: str) -> Address:
        return self.found


def test_the_policy_overrides_that_of_the_address_as_a_send_does() -> None:
    known = Cached()
    address = RequestAddresses(known, REQUEST).address("billing", "Charge")
    assert address == replace(known.found, policy=known.found.policy.over("send", REQUEST))
    assert (address.policy.retry.max_retries, address.policy.timeout_s) == (0, 3)
    assert address.policy.sources["retry"] == "send"


def test_it_is_worked_out_once_for_as_long_as_the_address_stays() -> None:
    known = Cached()
    addresses = RequestAddresses(known, REQUEST)
    first = addresses.address("billing", "Charge")
    assert addresses.address("billing", "Charge") is first
    known.found = replace(known.found, queue="elsewhere")
    assert addresses.address("billing", "Charge").queue == "elsewhere"


def test_each_agent_and_message_has_its_own() -> None:
    addresses = RequestAddresses(Known(), REQUEST)
    for agent, message in (("a", "M"), ("b", "M"), ("a", "N"), ("a", "M")):
        address = addresses.address(agent, message)
        assert (address.agent, address.message) == (agent, message)
