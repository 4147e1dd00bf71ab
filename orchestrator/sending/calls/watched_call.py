"""A call whose request may be sent more than once, or whose fallback Redis is to send: each request has a record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from orchestrator.core.calls.hedge import Hedge
from orchestrator.core.calls.no_reply import no_reply
from orchestrator.core.deliveries.outcome import Dead, Handled, Outcome, Reason
from orchestrator.core.errors import (
    BrokerUnavailable,
    BulkheadFull,
    CircuitOpen,
    DeadlinePassed,
    MailboxFull,
    OrchestratorError,
    SendFailed,
)
from orchestrator.core.log import get_logger
from orchestrator.core.policies.policy import Retry, next_pause_s
from orchestrator.sending.backend import Backend
from orchestrator.sending.calls.inbox import Inbox
from orchestrator.sending.dispatch import send_with_events
from orchestrator.sending.messages.agent_messages import new_id
from orchestrator.sending.messages.outgoing_message import AskRequest, OutgoingMessage
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.ask_record import NotSent

logger = get_logger(__name__)

#: Reasons of dead requests whose worker has died.
_DEATH_REASONS: Final = (Reason.WORKER_DIED, Reason.POISON, Reason.WORKERS_LOST)

#: Names of the errors that a death is: this library's, and Celery's.
_DEATHS: Final = frozenset({"WorkerLost", "WorkerLostError"})


class WatchedCall:
    """One call. ``build`` makes its request anew, with what is then left of its time."""

    def __init__(
        self,
        backend: Backend,
        raises_deadlock: bool,
        build: Callable[[float], OutgoingMessage],
        wait_s: float,
        retry: Retry,
        hedge: Hedge | None,
        fallback: OutgoingMessage | None,
        *,
        runs_again: bool,
    ) -> None:
        self._backend = backend
        self._raises_deadlock = raises_deadlock
        self._build = build
        self._wait_s = wait_s
        self._until = monotonic() + wait_s
        self._retry = retry
        self._hedge = hedge
        self._fallback = fallback
        #: Whether the request may run again after a death.
        self._runs_again = runs_again
        #: Whether Redis has accepted a request, and with it the fallback.
        self.is_accepted = False

    def result(self) -> Any:
        """The result of the first request that is handled.

        Raises:
            SendFailed, DeliveryTimeout, AgentDown, MailboxFull, CircuitOpen, BulkheadFull: why there is none, of the
                last request.
        """
        attempt = 1
        while True:
            try:
                outcome, delivery = self._ask("call" if attempt == 1 else "retry")
                if isinstance(outcome, Handled):
                    return outcome.result
                error: SendFailed | MailboxFull | CircuitOpen | BulkheadFull = SendFailed(delivery, outcome)
                names = _error_names(outcome)
                if not self._runs_again and set(names) & _DEATHS:
                    names = ()
            except (MailboxFull, CircuitOpen, BulkheadFull) as refused:
                error, names = refused, (type(refused).__name__,)
            except NotSent:
                logger.warning("call not retried: its mailbox has no budget of retries left: %s", error)
                raise error from None
            except DeadlinePassed:
                if attempt == 1:
                    raise
                # Its time ran out in the pause, and the error of the last request is known.
                raise error from None
            pause_s = next_pause_s(self._retry, attempt, names) if names else None
            if pause_s is None or monotonic() + pause_s >= self._until:
                raise error
            threading.Event().wait(pause_s)
            attempt += 1

    def _ask(self, kind: str) -> tuple[Outcome, str]:
        """Send a request, and copies of it while there is no reply; returns the first outcome, and whose it is.

        Raises:
            DeliveryTimeout: there is none in time; the copies were cancelled.
            NotSent: there is no budget for it.
        """
        request, left_s = self._build(self._until - monotonic()), self._until - monotonic()
        ask = AskRequest(request.id, left_s, inbox=(request.id, request.id), kind=kind, fallback=self._fallback)
        with self._backend.waiting(request, raises=self._raises_deadlock), self._backend.inbox(ask.id) as inbox:
            return self._first_outcome(request, ask, inbox)

    def _first_outcome(self, request: OutgoingMessage, ask: AskRequest, inbox: Inbox) -> tuple[Outcome, str]:
        send_with_events(self._backend, replace(request, ask=ask))
        self.is_accepted = True
        hedges = 0 if self._hedge is None else self._hedge.most - 1
        while True:
            read_until = self._until
            if hedges and self._hedge is not None:
                read_until = min(read_until, monotonic() + self._hedge.after_s)
            if found := inbox.read(read_until):
                return self._reply(found[0], ask)
            if monotonic() >= self._until:
                break
            if hedges:
                hedges = hedges - 1 if self._send_copy(request, ask) else 0
        if not self._time_out(ask.id) and (found := inbox.read(monotonic() + 1)):
            # The reply came at that moment.
            return self._reply(found[0], ask)
        raise no_reply(ask.id, None, self._wait_s)

    def _time_out(self, ask_id: str) -> bool:
        """End an ask that has no reply in time; returns whether it was open. If Redis is away, a sweep ends it."""
        try:
            return self._backend.end_ask(ask_id, "time out")
        except BrokerUnavailable as error:
            logger.debug("ask %s is ended by a sweep: %s", ask_id, error)
            return True

    def _reply(self, found: tuple[str, Outcome | None], ask: AskRequest) -> tuple[Outcome, str]:
        label, outcome = found
        if outcome is None:
            raise no_reply(ask.id, None, self._wait_s)
        return outcome, label

    def _send_copy(self, request: OutgoingMessage, ask: AskRequest) -> bool:
        copy = request.with_body(new_id(), request.args)
        try:
            send_with_events(self._backend, replace(copy, ask=AskRequest(ask.id, ask.timeout_s, kind="hedge")))
        except (NotSent, OrchestratorError) as why:
            # The first request may be answered all the same: its worker has died, or Redis was away for a moment.
            logger.debug("request %s is not sent again: %s", request.id, why)
            return False
        s = request.supervision
        emit(events.HEDGED, agent=s.agent, message=s.message, id=copy.id, ask=ask.id)
        return True


def _error_names(outcome: Outcome) -> tuple[str, ...]:
    """The name of the error that ended a request; empty if another request would end alike."""
    if not isinstance(outcome, Dead):
        return ()
    return ("WorkerLost",) if outcome.reason in _DEATH_REASONS else (outcome.error.partition(":")[0],)
