"""Requests and their replies: `call`, `ask`, `ask_all`, and what a call falls back to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import monotonic, time
from typing import Any, Final, TypeAlias

from orchestrator.core.attempt_limits import CURRENT
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import (
    AgentDown,
    BulkheadFull,
    CircuitOpen,
    DeadlinePassed,
    DeliveryTimeout,
    InvalidPolicy,
    MailboxFull,
    NotEnoughReplies,
    SendFailed,
)
from orchestrator.core.hedge import Hedge
from orchestrator.core.message import Message
from orchestrator.core.outcome import Handled
from orchestrator.core.policy import OnError, Retry, WhenDown
from orchestrator.sending.address import Directory
from orchestrator.sending.agent_messages import new_id
from orchestrator.sending.asked import Asked, Replies
from orchestrator.sending.backend import Backend
from orchestrator.sending.broadcast import recipients_of, refuse_duplicates
from orchestrator.sending.call import FallbackDelivery, check_call_options, check_timeout
from orchestrator.sending.dispatch import send_with_events
from orchestrator.sending.fallbacks import Ask, Fallback, FallbackArgument, Send, Stale, Value, check_fallbacks
from orchestrator.sending.outgoing_message import AskRequest, OutgoingMessage
from orchestrator.sending.send_options import SendOptions, check_options
from orchestrator.sending.sender import Sender
from orchestrator.sending.stale import stale_key
from orchestrator.sending.watched_call import WatchedCall
from orchestrator.telemetry import emit, events

#: Why a call may have no reply.
CallError: TypeAlias = (
    AgentDown | DeadlinePassed | DeliveryTimeout | SendFailed | MailboxFull | CircuitOpen | BulkheadFull
)

_NO_REPLY: Final = (AgentDown, DeadlinePassed, DeliveryTimeout, SendFailed)
_REFUSED: Final = (MailboxFull, CircuitOpen, BulkheadFull)

#: One attempt, no dead letter: the caller gets the error.
_REQUEST: Final = check_options(
    SendOptions(retry=Retry(max_retries=0), on_error=OnError.IGNORE, when_down=WhenDown.ERROR)
)


#: Agents that one `ask_all` asks, at most: each is a request of its own.
_MOST_ASKED: Final = 1000


class Caller:
    """Sends requests for one app."""

    def __init__(self, directory: Directory, backend: Callable[[], Backend], sender: Sender) -> None:
        self._directory = directory
        self._backend = backend
        self._sender = sender

    def call(
        self,
        recipient: Any,
        message: Message | None,
        timeout_s: float,
        fallback: FallbackArgument,
        on_death: str,
        retry: Retry | None,
        hedge: Hedge | None,
        on_deadlock: str,
    ) -> Any:
        """Ask, wait for the reply, and fall back if there is none; see :meth:`Orchestrator.call`."""
        fallbacks = check_fallbacks(fallback, recipient)
        check_call_options(timeout_s, on_death, retry, hedge)
        if not isinstance(on_deadlock, str) or on_deadlock not in ("warn", "error"):
            raise InvalidPolicy("on_deadlock", on_deadlock, "'warn' or 'error'")
        raises = on_deadlock == "error"
        durable = next((one for one in fallbacks if isinstance(one, Send) and one.durable), None)
        stale = next((one for one in fallbacks if isinstance(one, Stale)), None)
        if durable is not None and retry is not None:
            raise InvalidPolicy("retry", retry, "None with a durable Send, which Redis sends when a request has failed")
        if hedge is not None:
            self._check_idempotent(recipient, message)
        catches = (*_NO_REPLY, *_REFUSED) if isinstance(fallback, list | tuple) else _NO_REPLY
        if retry is None and hedge is None and durable is None:

            def ask() -> Any:
                return self._reply(recipient, message, timeout_s, on_death, raises)

            return self._with_fallbacks(ask, fallbacks, catches, recipient, message, timeout_s, on_death, stale)
        self._check_agent(recipient)
        wait_s = self._wait_s(timeout_s)
        later = None if durable is None else self._sender.build(recipient, message, durable.options)
        watched = WatchedCall(
            self._backend(),
            raises,
            lambda left_s: self._request(recipient, message, on_death, left_s),
            wait_s,
            retry or Retry(max_retries=0),
            hedge,
            later,
        )
        if later is None:
            return self._with_fallbacks(
                watched.result, fallbacks, catches, recipient, message, timeout_s, on_death, stale
            )
        try:
            return watched.result()
        except (*_NO_REPLY, *_REFUSED) as error:
            # Once it is accepted, Redis sends it.
            delivery = self._sender.delivery_of(later) if watched.is_accepted else self._sender.deliver(later)
            self._emit_fallback(recipient, message, error, "Send")
            return FallbackDelivery(delivery, error)

    def ask(self, recipient: Any, message: Message | None, timeout_s: float, on_death: str) -> Asked:
        """Ask without waiting; see :meth:`Orchestrator.ask`."""
        check_call_options(timeout_s, on_death, None, None)
        return self._ask(recipient, message, timeout_s, on_death)

    def ask_all(self, agents: Iterable[Any], message: Message, timeout_s: float, need: int | None) -> Replies:
        """Ask many agents; see :meth:`Orchestrator.ask_all`."""
        recipients = recipients_of(agents)
        wait_s = self._wait_s(check_timeout(timeout_s))
        if len(recipients) > _MOST_ASKED:
            raise InvalidPolicy("agents", f"{len(recipients)} of them", f"from 1 to {_MOST_ASKED}")
        needed = len(recipients) if need is None else need
        if not isinstance(needed, int) or isinstance(needed, bool) or not 1 <= needed <= len(recipients):
            raise InvalidPolicy("need", need, f"a whole number from 1 to {len(recipients)}, or None for all")
        until, inbox_id = monotonic() + wait_s, new_id()
        requests = [self._request(recipient, message, "again", wait_s) for recipient in recipients]
        refuse_duplicates(requests)
        backend = self._backend()
        results: dict[str, Any] = {}
        errors: dict[str, Exception] = {}
        asked: dict[str, str] = {}
        try:
            with backend.inbox(inbox_id) as inbox:
                for request in requests:
                    agent = request.supervision.agent
                    ask = AskRequest(request.id, max(0.001, until - monotonic()), inbox=(inbox_id, agent))
                    try:
                        send_with_events(backend, replace(request, ask=ask))
                        asked[agent] = request.id
                    except (*_NO_REPLY, *_REFUSED) as error:
                        errors[agent] = error
                while asked and len(results) < needed <= len(results) + len(asked):
                    found = inbox.read(until)
                    if not found:
                        break
                    for agent, outcome in found:
                        delivery = asked.pop(agent)
                        if isinstance(outcome, Handled):
                            results[agent] = outcome.result
                        elif outcome is None:
                            errors[agent] = DeliveryTimeout(delivery, wait_s)
                        else:
                            errors[agent] = SendFailed(delivery, outcome)
        finally:
            for delivery in asked.values():
                backend.end_ask(delivery, "give up")
        if len(results) < needed:
            if monotonic() >= until:
                errors |= {agent: DeliveryTimeout(delivery, wait_s) for agent, delivery in asked.items()}
            raise NotEnoughReplies(needed, results, errors)
        return Replies(results, errors)

    # -- one request

    def _ask(self, recipient: Any, message: Message | None, timeout_s: float, on_death: str) -> Asked:
        wait_s = self._wait_s(timeout_s)
        until = monotonic() + wait_s
        request = _counted(self._request(recipient, message, on_death, wait_s), wait_s)
        return Asked(self._sender.deliver(request), wait_s, until)

    def _reply(self, recipient: Any, message: Message | None, timeout_s: float, on_death: str, raises: bool) -> Any:
        wait_s = self._wait_s(timeout_s)
        until = monotonic() + wait_s
        request = _counted(self._request(recipient, message, on_death, wait_s), wait_s)
        with self._backend().waiting(request, raises=raises):
            return Asked(self._sender.deliver(request), wait_s, until).reply()

    def _wait_s(self, timeout_s: float) -> float:
        """How long to wait: in a handler, no longer than its attempt may take."""
        wait_s = check_timeout(timeout_s) * self._directory.timeouts.factor
        limits = CURRENT.get()
        return wait_s if limits is None else min(wait_s, limits.remaining_s())

    def _request(self, recipient: Any, message: Message | None, on_death: str, left_s: float) -> OutgoingMessage:
        options = replace(_REQUEST, ends_by_s=time() + left_s)
        request = self._sender.build(recipient, message, options)
        if on_death == "fail":
            request = replace(request, supervision=replace(request.supervision, on_death=on_death))
        return request

    def _check_agent(self, recipient: Any) -> None:
        if not isinstance(recipient, str | type):
            allowed = "an agent, with retry, hedge or a durable Send"
            raise InvalidPolicy("recipient", recipient, allowed)

    def _check_idempotent(self, recipient: Any, message: Message | None) -> None:
        self._check_agent(recipient)
        name = type(message).__name__
        if not self._directory.address(recipient, name).is_idempotent:
            raise InvalidPolicy(
                "hedge",
                name,
                f"for a handler that may run twice at once, declared by @handles({name}, idempotent=True)",
            )

    # -- fallbacks

    def _with_fallbacks(
        self,
        ask: Callable[[], Any],
        fallbacks: Sequence[Fallback],
        catches: tuple[type[Exception], ...],
        recipient: Any,
        message: Message | None,
        timeout_s: float,
        on_death: str,
        stale: Stale | None,
    ) -> Any:
        try:
            result = ask()
        except catches as error:
            failed: Any = error
        else:
            if stale is not None and isinstance(message, Message):
                self._backend().stale.remember(stale_key(recipient, message), result, to_ms(stale.max_age_s))
            return result
        for fallback in fallbacks:
            match fallback:
                case Ask(agent):
                    try:
                        result = self._reply(agent, message, timeout_s, on_death, raises=False)
                    except (*_NO_REPLY, *_REFUSED):
                        continue
                case Stale(max_age_s):
                    if not isinstance(message, Message):
                        continue
                    found = self._backend().stale.recall(stale_key(recipient, message), to_ms(max_age_s))
                    if found is None:
                        continue
                    result = found[0]
                case Value(value):
                    result = value
                case Send():
                    result = FallbackDelivery(
                        self._sender.deliver(self._sender.build(recipient, message, fallback.options)), failed
                    )
            self._emit_fallback(recipient, message, failed, type(fallback).__name__)
            return result
        raise failed

    def _emit_fallback(self, recipient: Any, message: Message | None, error: Exception, to: str) -> None:
        agent = recipient if isinstance(recipient, str) else getattr(recipient, "name", "")
        name = type(message).__name__ if message is not None else ""
        emit(events.FELL_BACK, agent=str(agent), message=name, to=to, error=type(error).__name__)


def _counted(request: OutgoingMessage, timeout_s: float) -> OutgoingMessage:
    """The request of a plain call, which needs the record of an ask only where a bulkhead counts it."""
    return request if request.bulkhead is None else replace(request, ask=AskRequest(request.id, timeout_s))
