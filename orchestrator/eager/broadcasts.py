"""Broadcasts in eager mode: the copies run one after the other, and then the compensations that are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from orchestrator.core.deliveries.outcome import Dead, Handled
from orchestrator.core.errors import CircuitOpen
from orchestrator.eager.acceptance import Acceptance
from orchestrator.eager.delivery_runner import DeliveryRunner
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.eager.records import EagerRecords
from orchestrator.sending.broadcast import BroadcastRequest, Refusal, Strategy
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events


class EagerBroadcasts:
    """The broadcasts of one process, and the compensations that a replay may still make due."""

    def __init__(
        self,
        acceptance: Acceptance,
        flow: EagerFlowControl,
        records: EagerRecords,
        runner: DeliveryRunner,
        is_dead: Callable[[str], bool],
    ) -> None:
        self._acceptance = acceptance
        self._flow = flow
        self._records = records
        self._runner = runner
        self._is_dead = is_dead
        #: By the id of a copy that died: its compensation, should it be replayed, and the broadcast.
        self._compensations: dict[str, tuple[OutgoingMessage, str]] = {}

    def send(self, request: BroadcastRequest) -> Mapping[int, Refusal]:
        """Run the copies and the compensations; returns the refused copies by place.

        An agent that a test has declared dead and an open breaker refuse a copy: no mailbox is full here.
        """
        copies = request.copies
        refused = {place: Refusal.DOWN for place, copy in enumerate(copies) if self._is_dead(copy.supervision.agent)}
        if request.strategy is Strategy.ALL_OR_NOTHING:
            for place, copy in enumerate(copies):
                if place not in refused:
                    with _refusing(refused, place):
                        self._flow.admit(copy.supervision.agent, peek=True)
            if refused:
                return refused
        for place, copy in enumerate(copies):
            if place not in refused:
                with _refusing(refused, place):
                    self._acceptance.accept(copy, may_wait=False)
        outcomes = [self._records.outcome(copy.id) for copy in copies]
        if any(outcome is not None and not isinstance(outcome, Handled) for outcome in outcomes):
            for place, compensation in enumerate(request.compensations):
                if isinstance(outcomes[place], Handled):
                    self._compensate(compensation, request.id)
                elif isinstance(outcomes[place], Dead):
                    self._compensations[copies[place].id] = compensation, request.id
        return refused

    def handled_later(self, delivery_id: str) -> None:
        """Compensate a copy that was dead and is handled after a replay, if its broadcast has failed."""
        due = self._compensations.pop(delivery_id, None)
        if due is not None:
            self._compensate(*due)

    def _compensate(self, compensation: OutgoingMessage, broadcast: str) -> None:
        self._runner.run(compensation)
        emit(events.COMPENSATED, agent=compensation.supervision.agent, id=compensation.id, broadcast=broadcast)


@contextmanager
def _refusing(refused: dict[int, Refusal], place: int) -> Iterator[None]:
    try:
        yield
    except CircuitOpen:
        refused[place] = Refusal.OPEN
