"""The acceptance of a message in eager mode: all that may refuse or defer it, and then its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery

from orchestrator.eager.asks import EagerAsks
from orchestrator.eager.bulkheads import EagerBulkheads
from orchestrator.eager.deferred_messages import DeferredMessages
from orchestrator.eager.delivery_runner import DeliveryRunner
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.sending.backend import SendResult
from orchestrator.sending.celery_sends import TaskSend, as_published, check_arguments, has_own_way, send_by_task
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.worker.hosting import supervise_tasks


class Acceptance:
    """Accepts messages: by their task's own way of sending, its bulkhead, its idempotency key and its breaker."""

    def __init__(self, app: Celery, flow: EagerFlowControl, runner: DeliveryRunner, asks: EagerAsks) -> None:
        self._app = app
        self._flow = flow
        self._runner = runner
        self._asks = asks
        self._bulkheads = EagerBulkheads()
        self.deferred = DeferredMessages(flow, self._run)

    def accept(
        self, message: OutgoingMessage, raised: list[BaseException] | None = None, *, may_wait: bool = True
    ) -> SendResult:
        """Accept a message and run it to its outcome, or find the delivery that its idempotency key stands for.

        What its last attempt raises is appended to ``raised``. Without ``may_wait``, an open breaker refuses the
        message though it asks to wait.

        Raises:
            BulkheadFull, CircuitOpen, NotSent: it is refused.
            InvalidMessage: its arguments are not JSON data.
        """
        task = None if message.supervision.agent else self._app.tasks.get(message.task)
        place: Mapping[str, Any] | None = None
        if task is not None and has_own_way(task):
            supervise_tasks(self._app)
            send = TaskSend(message, {}, inline=True)
            send_by_task(task, send)
            if not send.published:
                return SendResult(message.id, published=False)
            message, place = as_published(message, send), send.place()
        elif task is not None:
            check_arguments(task, message.args, message.kwargs)
        if message.ask is not None and message.bulkhead is not None:
            with self._bulkheads.request(message.supervision.agent, message.bulkhead, message.ask):
                return self._accept_counted(message, raised, place, may_wait=may_wait)
        return self._accept_counted(message, raised, place, may_wait=may_wait)

    def run_accepted(self, messages: Sequence[OutgoingMessage]) -> None:
        """Run messages that were accepted together, one after the other: their breakers are not asked any more."""
        for message in messages:
            self._run(message)
        for agent in dict.fromkeys(message.supervision.agent for message in messages):
            self.deferred.let_go(agent)

    def _accept_counted(
        self,
        message: OutgoingMessage,
        raised: list[BaseException] | None,
        place: Mapping[str, Any] | None,
        *,
        may_wait: bool,
    ) -> SendResult:
        agent = message.supervision.agent
        if message.ask is not None:
            self._asks.count(message.ask, agent)
        duplicate = self._flow.duplicate_of(message)
        if duplicate is not None:
            return SendResult(duplicate)
        try:
            if message.supervision.run is None and self.deferred.defer(message, may_wait=may_wait):
                self.deferred.let_go(agent)
                return SendResult(message.id)
            self._run(message, raised)
        except BaseException:
            self._flow.forget(message)
            raise
        self.deferred.let_go(agent)
        return SendResult(message.id, place=place)

    def _run(self, message: OutgoingMessage, raised: list[BaseException] | None = None) -> None:
        outcome = self._runner.run(message, raised)
        self._flow.ended(message)
        if message.ask is not None:
            self._asks.end(message.ask, message.supervision.agent, message.id, outcome)
