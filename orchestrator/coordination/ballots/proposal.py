"""Proposals: checked, and addressed to each voter, before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from time import time
from typing import Any

from celery import Celery

from orchestrator.agents.votes import DECISION, vote_name
from orchestrator.coordination.ballots.backend import AskedVoter, BallotRequest
from orchestrator.coordination.checks import checked_name
from orchestrator.core.checks.choices import check_choice
from orchestrator.core.coordination.ballot import Silent
from orchestrator.core.coordination.ballot_rules import MOST_VOTERS, check_rule, weights_of
from orchestrator.core.errors import InvalidPolicy, NoVoters, UnknownMessage
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.policy import WhenDown, WhenOpen
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.sending.address import Address, Directory
from orchestrator.sending.calls.call import check_timeout
from orchestrator.sending.destination import checked_queue_of
from orchestrator.sending.messages.agent_messages import build_celery_message, build_message, new_id
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions


class Proposals:
    """Makes the requests of ballots, for one app."""

    def __init__(self, app: Celery, directory: Directory) -> None:
        self._app = app
        self._directory = directory

    def request(
        self, message: object, voters: object, rule: object, timeout_s: float, silent: object, ballot_id: object
    ) -> BallotRequest:
        """A proposal to these voters.

        Raises:
            NoAgents: there are no voters.
            UnknownAgent: no agent of that name is declared here or announced by any worker.
            UnknownMessage: an agent has no method that votes on that message.
            InvalidPolicy: an argument has a value that is not allowed.
            InvalidMessage: the message is not JSON data.
        """
        if not isinstance(message, Message):
            raise InvalidPolicy("message", message, "an instance of a Message class")
        what = message_name(type(message))
        checked, silent_as = check_rule(rule), _silent(silent)
        timeout_s = check_timeout(timeout_s) * self._directory.timeouts.factor
        known_id = "" if ballot_id is None else checked_name(ballot_id, "id")
        addresses = self._addresses(voters, what)
        names = [address.agent for address in addresses]
        threshold, weights = checked.threshold(names), weights_of(checked, names)
        fields, ends_by_s = encode(message), time() + timeout_s
        # Who comes to it later is not asked any more, and leaves no dead letter.
        policy = Policy(
            expires_s=timeout_s, dead_letter_expired=False, when_down=WhenDown.QUEUE, when_open=WhenOpen.ERROR
        )
        options, hide = CheckedOptions(policy, ends_by_s=ends_by_s), secret_names(type(message))
        asked = tuple(
            AskedVoter(
                address.agent,
                weights[address.agent],
                self._copy(address, fields, options, hide),
                self._decision(address.agent, hide),
            )
            for address in addresses
        )
        # Voters, and so their weights, may be named in any order.
        known: Any = [what, fields, weights, repr(threshold), silent_as]
        fingerprint = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        words = f"{checked}{'; silent voters count as against it' if silent_as is Silent.REJECT else ''}"
        return BallotRequest(known_id, what, fields, words, threshold, silent_as, timeout_s, asked, fingerprint)

    def _addresses(self, voters: object, what: str) -> list[Address]:
        if isinstance(voters, str | bytes | type) or not isinstance(voters, Iterable):
            raise InvalidPolicy("voters", voters, "a list of agents' names or Agent classes")
        listed = list(voters)
        if not listed:
            raise NoVoters(what)
        if len(listed) > MOST_VOTERS:
            raise InvalidPolicy("voters", f"{len(listed)} of them", f"at most {MOST_VOTERS}")
        found: dict[str, Address] = {}
        for voter in listed:
            try:
                address = self._directory.address(voter, vote_name(what))
            except UnknownMessage as error:
                allowed = f"a voter with a method that is marked with @votes({what})"
                raise UnknownMessage(error.agent, error.message, error.known, allowed) from None
            if address.agent in found:
                raise InvalidPolicy("voters", address.agent, "each agent once")
            found[address.agent] = address
        return list(found.values())

    def _copy(
        self, address: Address, fields: dict[str, Any], options: CheckedOptions, hide: tuple[str, ...]
    ) -> OutgoingMessage:
        outgoing = build_message(
            self._directory.timeouts,
            options,
            id=new_id(),
            task=address.task,
            args=[fields],
            agent=address.agent,
            message=address.message,
            policy=address.policy,
            queue=address.queue,
            hide=hide,
        )
        checked_queue_of(self._app, outgoing)
        return outgoing

    def _decision(self, agent: str, hide: tuple[str, ...]) -> OutgoingMessage | None:
        try:
            address = self._directory.address(agent, DECISION)
        except UnknownMessage:
            return None
        message = build_celery_message(address, self._directory.timeouts, None, hide)
        # Redis sends it, perhaps much later.
        supervision = replace(message.supervision, deadline_at_s=None)
        return replace(message, id=new_id(), expires_s=None, supervision=supervision)


def _silent(silent: Any) -> Silent:
    return check_choice("silent", Silent, silent)
