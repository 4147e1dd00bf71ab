"""Eager mode's backend: messages run inline to their outcomes, with no Redis and no waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from celery import Celery

from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.errors import BulkheadFull, CircuitOpen
from orchestrator.deadletters.in_memory.store import InMemoryDeadLetterStore
from orchestrator.eager.acceptance import Acceptance
from orchestrator.eager.asks import EagerAsks, EagerInbox
from orchestrator.eager.broadcasts import EagerBroadcasts
from orchestrator.eager.delivery_runner import DeliveryRunner
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.eager.records import EagerRecords
from orchestrator.eager.replays import EagerReplays
from orchestrator.eager.tracker import EagerTracker
from orchestrator.sending.backend import SendResult
from orchestrator.sending.broadcast import BroadcastRequest, Refusal
from orchestrator.sending.calls.stale import InMemoryStaleReplies
from orchestrator.sending.dispatch import refuse_if_down
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


class EagerBackend:
    """Runs the messages of one app in one process, in place of Redis and the workers.

    It is what the sender's side calls (:class:`orchestrator.sending.backend.Backend`); its parts do the work.
    """

    inline = True

    def __init__(self, app: Celery, flow: Callable[[str], Flow], is_dead: Callable[[str], bool]) -> None:
        self._app = app
        #: Whether a test has declared an agent dead.
        self.is_dead = is_dead
        self.flow = EagerFlowControl(flow)
        self.records = EagerRecords()
        self.letters = InMemoryDeadLetterStore(lambda queue, raw: self.replays.replay(queue, raw))
        self.runner = DeliveryRunner(app, self.flow, self.records, self.letters)
        self.asks = EagerAsks(self.runner.run, self.records)
        self.acceptance = Acceptance(app, self.flow, self.runner, self.asks)
        self._broadcasts = EagerBroadcasts(self.acceptance, self.flow, self.records, self.runner, is_dead)
        deferred = self.acceptance.deferred
        self.replays = EagerReplays(app, self.flow, self.runner, deferred, self._broadcasts)
        self.tracker = EagerTracker(app, self.records, deferred, self.runner)
        self.stale = InMemoryStaleReplies()

    def hosted(self, message: OutgoingMessage) -> bool:
        """Whether the agent is alive, as all are here that no test has declared dead."""
        return not self.is_dead(message.supervision.agent)

    def prepare(self, message: OutgoingMessage) -> None:
        """Does nothing: no mailbox has to be declared here."""

    def send(self, message: OutgoingMessage) -> SendResult:
        """Run a message to its outcome, retries included; or find the delivery that its idempotency key stands for.

        Raises:
            InvalidMessage: its arguments are not JSON data, which a broker would have refused too.
            AgentDown: a test has declared its recipient dead, and ``when_down`` is ``"error"``.
            CircuitOpen: its recipient's breaker is open.
            Exception: what its last attempt has raised, with Celery's setting ``task_eager_propagates``.
        """
        refuse_if_down(self, message)
        raised: list[BaseException] = []
        sent = self.acceptance.accept(message, raised)
        if raised and self._app.conf.task_eager_propagates:
            raise raised[-1]
        return sent

    def send_many(self, messages: Sequence[OutgoingMessage]) -> None:
        """Run messages one after the other. Errors of handlers are not raised, so that all of them run."""
        for accepted, message in enumerate(messages):
            try:
                self.acceptance.accept(message)
            except (CircuitOpen, BulkheadFull) as error:
                error.accepted, error.requested = accepted, len(messages)
                raise

    def ask_many(self, requests: Sequence[OutgoingMessage]) -> None:
        """Run requests one after the other, and their replies with each."""
        self.send_many(requests)

    def broadcast(self, request: BroadcastRequest) -> Mapping[int, Refusal]:
        """Run the copies of a broadcast; see :meth:`EagerBroadcasts.send`."""
        return self._broadcasts.send(request)

    def inbox(self, inbox_id: str) -> EagerInbox:
        """See :class:`orchestrator.sending.backend.Backend`."""
        return self.asks.inbox(inbox_id)

    def end_ask(self, ask_id: str, why: str) -> bool:
        """False: an ask has ended as soon as it is accepted."""
        return False

    def waiting(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        """See :class:`orchestrator.sending.backend.Backend`; nothing waits here."""
        return nullcontext()

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """The outcome of a delivery, without waiting: none is pending here but for those that a breaker defers."""
        return self.records.outcome(delivery_id)
