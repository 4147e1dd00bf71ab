"""Replays in eager mode: a dead letter's message runs again, at once."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from orchestrator.core.deliveries.outcome import Dead, Handled
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.eager.broadcasts import EagerBroadcasts
from orchestrator.eager.deferred_messages import DeferredMessages
from orchestrator.eager.delivery_runner import DeliveryRunner
from orchestrator.eager.eager_message import UnreadableMessage, decode_message
from orchestrator.eager.flow_control import EagerFlowControl


class EagerReplays:
    """Replays the dead letters of one process."""

    def __init__(
        self,
        app: Celery,
        flow: EagerFlowControl,
        runner: DeliveryRunner,
        deferred: DeferredMessages,
        broadcasts: EagerBroadcasts,
    ) -> None:
        self._app = app
        self._flow = flow
        self._runner = runner
        self._deferred = deferred
        self._broadcasts = broadcasts
        #: Called with the mailbox and the supervision of what is replayed; each may raise to refuse that.
        self.checks: list[Callable[[str, Supervision], None]] = []

    def replay(self, queue: str, raw: bytes) -> bool:
        """Replay a dead letter's message. Returns whether it is dead without a letter (``on_error``)."""
        try:
            message = decode_message(self._app, queue, raw)
        except UnreadableMessage as unreadable:
            self._runner.dead_letter_unreadable(queue, raw, unreadable)
            return False
        outgoing = message.outgoing
        for check in self.checks:
            check(message.queue, outgoing.supervision)
        self._flow.admit(outgoing.supervision.agent)
        outcome = self._runner.deliver(message)
        self._deferred.let_go(outgoing.supervision.agent)
        if isinstance(outcome, Handled):
            self._broadcasts.handled_later(outgoing.id)
        return isinstance(outcome, Dead) and outcome.letter_id is None
