"""Messages that are sent without options share what is the same in all of them, and nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator import Message
from orchestrator.core.calls.conversation import Conversation, within
from orchestrator.core.errors import DeadlinePassed
from orchestrator.core.policies.effective import Policy, merge
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.sending.address import Address
from orchestrator.sending.messages.agent_messages import build_agent_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import NO_OPTIONS, CheckedOptions, SendOptions, check_options


class Charge(Message):
    """To be sent."""

    cents: int


class OtherCharge(Message):
    """What another module calls a charge."""

    card: SecretStr


OtherCharge.__name__ = "Charge"


class Addresses:
    """One address."""

    def __init__(self, policy: Policy) -> None:
        self.timeouts = Timeouts()
        self.found = Address("billing", "Charge", "billing.Charge", "billing", merge(("agent", policy)))

    def address(self, recipient: Any, message: str) -> Address:
        return self.found


def _build(addresses: Addresses, cents: int = 1, options: Any = NO_OPTIONS) -> OutgoingMessage:
    return build_agent_message(addresses, "billing", Charge(cents=cents), options)


def test_each_has_its_own_id_and_fields_and_the_supervision_of_all() -> None:
    addresses = Addresses(Policy(timeout_s=3))
    first, second, third = (_build(addresses, cents) for cents in (1, 2, 3))
    assert len({first.id, second.id, third.id}) == 3
    assert [list(one.args) for one in (first, second, third)] == [[{"cents": 1}], [{"cents": 2}], [{"cents": 3}]]
    assert first.supervision is second.supervision is third.supervision
    assert replace(second, id=first.id, args=first.args) == first


def test_a_send_with_an_option_has_a_supervision_of_its_own() -> None:
    addresses = Addresses(Policy())
    usual = _build(addresses)
    assert _build(addresses, options=check_options({"timeout_s": 5})).supervision.timeout_s == 5
    assert _build(addresses, options=check_options({"metadata": {"job": "1"}})).supervision.metadata == {"job": "1"}
    assert _build(addresses, options=check_options(SendOptions(track=False))).supervision.track is False
    assert _build(addresses).supervision is usual.supervision


def test_each_has_its_own_deadline() -> None:
    addresses = Addresses(Policy(deadline_s=60))
    first, second = _build(addresses), _build(addresses)
    assert first.supervision.deadline_at_s is not None
    assert second.supervision.deadline_at_s is not None
    assert second.supervision.deadline_at_s > first.supervision.deadline_at_s


def test_one_within_a_conversation_belongs_to_it_and_the_next_one_does_not() -> None:
    addresses = Addresses(Policy())
    _build(addresses)
    with within(Conversation("talk", ("billing",))):
        inside = _build(addresses)
    assert inside.supervision.conversation is not None
    assert _build(addresses).supervision.conversation is None


def test_an_address_that_has_changed_is_followed() -> None:
    addresses = Addresses(Policy())
    _build(addresses)
    addresses.found = replace(addresses.found, policy=merge(("agent", Policy(timeout_s=7))))
    assert _build(addresses).supervision.timeout_s == 7


def test_types_of_one_name_have_their_own_secrets() -> None:
    addresses = Addresses(Policy())
    _build(addresses)

    hidden = build_agent_message(addresses, "billing", OtherCharge(card=SecretStr("4711")), NO_OPTIONS)
    assert hidden.supervision.hide == ("card",)
    assert _build(addresses).supervision.hide == ()


def test_one_that_inherits_a_deadline_has_that_and_the_next_one_has_none() -> None:
    addresses = Addresses(Policy(timeout_s=3))
    ends_by_s = time.time() + 60
    for _ in range(2):
        inherits, usual = _build(addresses, options=CheckedOptions(ends_by_s=ends_by_s)), _build(addresses)
        assert inherits.supervision.deadline_at_s == ends_by_s
        assert usual.supervision == replace(inherits.supervision, deadline_at_s=None)


def test_none_is_sent_whose_inherited_deadline_has_passed() -> None:
    addresses = Addresses(Policy())
    _build(addresses)
    with pytest.raises(DeadlinePassed):
        _build(addresses, options=CheckedOptions(ends_by_s=time.time() - 1))
