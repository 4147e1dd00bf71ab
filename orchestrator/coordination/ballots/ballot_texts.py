"""The texts of a ballot's messages: the copies of its proposal, and what Redis makes the decision's messages of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from celery import Celery

from orchestrator.agents.votes import DECISION
from orchestrator.coordination.ballots.backend import AskedVoter, BallotRequest
from orchestrator.sending.broadcast import STEP_BYTES, CopyTemplates, check_sizes
from orchestrator.sending.messages.outgoing_message import queue_name
from orchestrator.sending.publish import producer_of
from orchestrator.telemetry import tracing
from orchestrator.transport.json_text import encode
from orchestrator.transport.message_envelope import envelope
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.store import Store

#: Most copies that one script puts.
_SLICE: Final = 200

#: Voter, queue, level, delivery and message.
Copy = tuple[str, str, str, str, str]


def copies_of(app: Celery, store: Store, request: BallotRequest, hidden: tuple[str, ...]) -> list[Copy]:
    """The voters' copies of the proposal.

    Raises:
        BrokerUnavailable: a mailbox could not be declared.
        MessageTooLarge: a copy is larger than a message may be.
        InvalidPolicy: a voter has no mailbox of its own.
    """
    templates = CopyTemplates(app, hidden)
    try:
        with producer_of(app) as producer, open_batch(producer) as batch:
            numbers = [templates.number(voter.copy, batch) for voter in request.voters]
    except BatchPublishError as error:
        raise store.failure(error) from error
    copies = []
    for voter, number in zip(request.voters, numbers, strict=True):
        template, queue = templates.templates[number], queue_name(voter.copy)
        text = template.render(encode(voter.copy.id), encode(voter.name), encode(voter.copy.task), encode(queue))
        copies.append((voter.name, queue, template.level, voter.copy.id, text))
    check_sizes(store, [text for *_, text in copies])
    return copies


def slices(copies: Sequence[Copy]) -> Iterator[list[Copy]]:
    """The copies of each script: at most 200, and 1 MB unless a single one has more."""
    part: list[Copy] = []
    size = 0
    for copy in copies:
        if part and (len(part) >= _SLICE or size + len(copy[-1]) > STEP_BYTES):
            yield part
            part, size = [], 0
        part.append(copy)
        size += len(copy[-1])
    yield part


@dataclass(frozen=True, slots=True)
class DecisionTexts:
    """The text from which Redis makes the decision's messages; ``ballot_votes.lua`` describes it."""

    #: ``text:N`` -> a message's text with marks in it.
    texts: dict[str, str]
    #: By voter, what is recorded of it.
    voters: dict[str, str]


def decision_texts(app: Celery, store: Store, request: BallotRequest, ballot_id: str, nonce: str) -> DecisionTexts:
    """The texts of the messages that bring the decision.

    Raises:
        MessageTooLarge: one would be larger than a message may be.
    """
    numbers: dict[str, int] = {}
    voters = {}
    for voter in request.voters:
        record = str(voter.weight)
        if voter.decision is not None:
            text = _decision_text(app, request, ballot_id, voter, nonce)
            number = numbers.setdefault(text, len(numbers) + 1)
            level = store.level_of(voter.decision.priority)
            record = "\n".join([record, str(number), queue_name(voter.decision), level, voter.decision.id])
        voters[voter.name] = record
    if numbers:
        check_sizes(store, list(numbers))
    return DecisionTexts({f"text:{number}": text for text, number in numbers.items()}, voters)


def _decision_text(app: Celery, request: BallotRequest, ballot_id: str, voter: AskedVoter, nonce: str) -> str:
    assert voter.decision is not None  # noqa: S101
    agent, queue, id_, decision = (f"@{nonce}:{name}@" for name in ("agent", "queue", "id", "decision"))
    known: dict[str, Any] = {"ballot": ballot_id, "message": request.message, "rule": request.rule}
    fields = json.dumps({**known, "proposal": request.proposal})[:-1]
    trace: dict[str, Any] = {}
    tracing.carry(trace)
    current = app.current_worker_task
    return envelope(
        task=f"{agent}.{DECISION}",
        queue=queue,
        id=id_,
        supervision=replace(voter.decision.supervision, agent=agent).to_wire(),
        arguments="(Decision,)",
        origin="ballots",
        body=f'[[{fields}, "decided": {decision}}}],{{}},{{}}]',
        root_id=current and (current.request.root_id or current.request.id),
        parent_id=current and current.request.id,
        more=trace,
    )
