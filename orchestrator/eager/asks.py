"""Asks in eager mode: they end as soon as they are accepted, and their replies run at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from orchestrator.core.calls import ask as ask_rule
from orchestrator.core.calls import call_budget
from orchestrator.core.calls.no_reply import is_late
from orchestrator.core.calls.reply import timeout_wire
from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.outcome import Outcome, kind, to_wire
from orchestrator.eager.records import EagerRecords
from orchestrator.sending.calls.call_counts import CallCounts, counts_of
from orchestrator.sending.messages.outgoing_message import AskRequest, OutgoingMessage
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.ask_record import NotSent


class EagerAsks:
    """Counts the asks of one process, and delivers their replies."""

    def __init__(self, run: Callable[[OutgoingMessage], object], records: EagerRecords) -> None:
        self._run = run
        self._records = records
        #: By agent: the counters of its asks, and the budget of retries and hedges.
        self._counts: dict[str, Counter[str]] = {}
        self._inboxes: dict[str, list[tuple[str, Outcome | None]]] = {}

    def count(self, ask: AskRequest, agent: str) -> None:
        """Count an ask, and add to the budget of retries and hedges, or take from it.

        Raises:
            NotSent: the budget does not allow it.
        """
        counts = self._counts.setdefault(agent, Counter(budget=call_budget.START))
        budget: int | None = counts["budget"]
        if ask.kind == "call":
            budget = call_budget.deposited(counts["budget"])
        elif ask.kind != "ask":
            budget = call_budget.spent(counts["budget"])
        if budget is None:
            counts["over_budget"] += 1
            raise NotSent("budget")
        counts["budget"] = budget
        counts["asked"] += 1
        counts["retried"] += ask.kind == "retry"

    def end(self, ask: AskRequest, agent: str, delivery_id: str, outcome: Outcome) -> None:
        """Deliver the reply to an ask. Flow control refuses no reply, and errors of its handler are not raised."""
        state = ask_rule.accepted(ask_rule.AskState(to_ms(ask.timeout_s)), delivery_id)
        late = is_late(outcome)
        _, ending = ask_rule.outcome_recorded(state, delivery_id, kind(outcome), is_late=late)
        if ending is None or not ending.is_replied:
            return
        counts = self._counts[agent]
        counts[ending.ended] += 1
        if ask.reply is not None:
            recorded = self._records.record(delivery_id) or to_wire(outcome)
            fields = {**ask.reply.args[0], "outcome": timeout_wire(ask.timeout_s) if late else recorded}
            emit(events.REPLIED, agent=ask.reply.supervision.agent, id=ask.id, ended=ending.ended)
            self._run(replace(ask.reply, args=[fields]))
        if ask.inbox is not None:
            inbox_id, label = ask.inbox
            self._inboxes.setdefault(inbox_id, []).append((label, None if late else outcome))
        if ask.fallback is not None and ending.ended != "handled":
            counts["fell_back"] += 1
            self._run(ask.fallback)

    def inbox(self, inbox_id: str) -> EagerInbox:
        """The inbox of a caller; see :class:`orchestrator.sending.backend.Backend`."""
        return EagerInbox(self._inboxes, inbox_id)

    def counts(self) -> list[CallCounts]:
        """Counts of the asks of each agent, by name."""
        return [counts_of(agent, counts) for agent, counts in sorted(self._counts.items())]


class EagerInbox:
    """Outcomes that are there as soon as their requests are accepted."""

    def __init__(self, inboxes: dict[str, list[tuple[str, Outcome | None]]], id: str) -> None:
        self._inboxes = inboxes
        self._id = id

    def read(self, until: float) -> list[tuple[str, Outcome | None]]:
        """See :class:`orchestrator.sending.calls.inbox.Inbox`; there is nothing to wait for."""
        return self._inboxes.pop(self._id, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...
