"""Requests and their replies: `call`, `ask`, `ask_all`, and the fallbacks of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import monotonic, time
from typing import Any, Final, TypeAlias

from orchestrator.core.calls.hedge import Hedge
from orchestrator.core.calls.no_reply import no_reply
from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.attempt_limits import CURRENT
from orchestrator.core.deliveries.outcome import Handled
from orchestrator.core.errors import (
    AgentDown,
    BrokerUnavailable,
    BulkheadFull,
    CircuitOpen,
    DeadlinePassed,
    DeliveryTimeout,
    InvalidPolicy,
    MailboxFull,
    NotEnoughReplies,
    SendFailed,
    UnknownAgent,
    UnknownMessage,
)
from orchestrator.core.log import get_logger
from orchestrator.core.message import Message, message_name
from orchestrator.core.policies.policy import OnError, Retry, WhenDown
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.sending.address import Directory
from orchestrator.sending.backend import Backend
from orchestrator.sending.broadcast import recipients_of, refuse_duplicates
from orchestrator.sending.calls.asked import Asked, Replies
from orchestrator.sending.calls.call import FallbackDelivery, check_call_options, check_timeout
from orchestrator.sending.calls.fallbacks import Ask, Fallback, FallbackArgument, Send, Stale, Value, check_fallbacks
from orchestrator.sending.calls.request_addresses import RequestAddresses
from orchestrator.sending.calls.stale import stale_key
from orchestrator.sending.calls.watched_call import WatchedCall
from orchestrator.sending.dispatch import send_with_events
from orchestrator.sending.messages.agent_messages import build_agent_message, new_id
from orchestrator.sending.messages.outgoing_message import AskRequest, OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions, SendOptions, check_options
from orchestrator.sending.sender import Sender
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: Why a call may have no reply.
CallError: TypeAlias = (
    AgentDown | DeadlinePassed | DeliveryTimeout | SendFailed | MailboxFull | CircuitOpen | BulkheadFull
)

_NO_REPLY: Final = (AgentDown, DeadlinePassed, DeliveryTimeout, SendFailed)
_REFUSED: Final = (MailboxFull, CircuitOpen, BulkheadFull)

#: Why a fallback may not be sent.
_NOT_SENT: Final = (AgentDown, DeadlinePassed)

#: Of fallbacks that were there when the call began.
_VANISHED: Final = (UnknownAgent, UnknownMessage)

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
        self._addresses = RequestAddresses(directory, _REQUEST.policy)

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
        if on_death == "fail" and any(isinstance(one, Send) for one in fallbacks):
            allowed = "Ask, Stale and Value with on_death='fail': a Send runs the same request a second time"
            raise InvalidPolicy("fallback", fallback, allowed)
        if not isinstance(on_deadlock, str) or on_deadlock not in ("warn", "error"):
            raise InvalidPolicy("on_deadlock", on_deadlock, "'warn' or 'error'")
        raises = on_deadlock == "error"
        if not fallbacks and retry is None and hedge is None:
            return self._reply(recipient, message, timeout_s, on_death, raises)
        durable = next((one for one in fallbacks if isinstance(one, Send) and one.durable), None)
        stale = next((one for one in fallbacks if isinstance(one, Stale)), None)
        if durable is not None and retry is not None:
            raise InvalidPolicy("retry", retry, "None with a durable Send, which Redis sends when a request has failed")
        if hedge is not None:
            self._check_idempotent(recipient, message)
        self._check_recipients(recipient, message, fallbacks)
        catches = (*_NO_REPLY, *_REFUSED) if isinstance(fallback, list | tuple) else _NO_REPLY
        if retry is None and hedge is None and durable is None:

            def ask() -> Any:
                return self._reply(recipient, message, timeout_s, on_death, raises)

            return self._with_fallbacks(ask, fallbacks, catches, recipient, message, timeout_s, on_death, stale)
        self._check_agent(recipient)
        backend = self._backend()
        wait_s = self._wait_s(timeout_s)
        later = None if durable is None else self._sender.build(recipient, message, durable.options)
        watched = WatchedCall(
            backend,
            raises,
            lambda left_s: self._request(recipient, message, on_death, left_s),
            wait_s,
            retry or Retry(max_retries=0),
            hedge,
            later,
            runs_again=on_death == "again",
        )
        if later is None:
            return self._with_fallbacks(
                watched.result, fallbacks, catches, recipient, message, timeout_s, on_death, stale
            )
        try:
            return watched.result()
        except (*_NO_REPLY, *_REFUSED) as failed:
            error: Any = failed
            # Once it is accepted, Redis sends it.
            if watched.is_accepted:
                delivery = self._sender.delivery_of(later)
            else:
                try:
                    delivery = self._sender.deliver(later)
                except (*_NOT_SENT, *_REFUSED) as why:
                    _note(error, durable, why)
                    raise error from None
            self._emit_fallback(recipient, message, error, "Send")
            return FallbackDelivery(delivery, error)

    def ask(self, recipient: Any, message: Message | None, timeout_s: float, on_death: str) -> Asked:
        """Ask without waiting; see :meth:`Orchestrator.ask`."""
        check_call_options(timeout_s, on_death, None, None)
        return self._ask(recipient, message, timeout_s, on_death)

    def ask_all(self, agents: Iterable[Any], message: Message, timeout_s: float, need: int | None) -> Replies:
        """Ask many agents; see :meth:`Orchestrator.ask_all`."""
        recipients = recipients_of(agents)
        backend = self._backend()
        wait_s = self._wait_s(timeout_s)
        if len(recipients) > _MOST_ASKED:
            raise InvalidPolicy("agents", f"{len(recipients)} of them", f"from 1 to {_MOST_ASKED}")
        needed = len(recipients) if need is None else need
        if not isinstance(needed, int) or isinstance(needed, bool) or not 1 <= needed <= len(recipients):
            raise InvalidPolicy("need", need, f"a whole number from 1 to {len(recipients)}, or None for all")
        until, inbox_id = monotonic() + wait_s, new_id()
        requests = [self._request(recipient, message, "again", wait_s) for recipient in recipients]
        refuse_duplicates(requests)
        results: dict[str, Any] = {}
        errors: dict[str, Exception] = {}
        asked: dict[str, str] = {}
        is_over = False
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
                        else:
                            errors[agent] = no_reply(delivery, outcome, wait_s)
                            is_over = is_over or outcome is None
        finally:
            _give_up(backend, asked.values())
        if len(results) < needed:
            # All have the same deadline: if it has ended one, it ends the others.
            if is_over or monotonic() >= until:
                errors |= {agent: no_reply(delivery, None, wait_s) for agent, delivery in asked.items()}
            raise NotEnoughReplies(needed, results, errors)
        return Replies(results, errors)

    # -- one request

    def _ask(self, recipient: Any, message: Message | None, timeout_s: float, on_death: str) -> Asked:
        backend = self._backend()
        wait_s = self._wait_s(timeout_s)
        until = monotonic() + wait_s
        request = _counted(self._request(recipient, message, on_death, wait_s), wait_s)
        return Asked(self._sender.deliver(request, backend), wait_s, until)

    def _reply(self, recipient: Any, message: Message | None, timeout_s: float, on_death: str, raises: bool) -> Any:
        backend = self._backend()
        wait_s = self._wait_s(timeout_s)
        until = monotonic() + wait_s
        request = _counted(self._request(recipient, message, on_death, wait_s), wait_s)
        with backend.waiting(request, raises=raises):
            return Asked(self._sender.deliver(request, backend), wait_s, until).reply()

    def _wait_s(self, timeout_s: float) -> float:
        """How long to wait: in a handler, no longer than its attempt may take.

        Callers get the backend first: what the process loads for its first request is not in the time of the request.
        """
        wait_s = check_timeout(timeout_s) * self._directory.timeouts.factor
        limits = CURRENT.get()
        return wait_s if limits is None else min(wait_s, limits.remaining_s())

    def _request(self, recipient: Any, message: Message | None, on_death: str, left_s: float) -> OutgoingMessage:
        ends_by_s = time() + left_s
        if isinstance(recipient, str | type):
            request = build_agent_message(self._addresses, recipient, message, CheckedOptions(ends_by_s=ends_by_s))
        else:
            request = self._sender.build(recipient, message, replace(_REQUEST, ends_by_s=ends_by_s))
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

    def _check_recipients(self, recipient: Any, message: Message | None, fallbacks: Sequence[Fallback]) -> None:
        """Refuse fallbacks that could not be tried, before anything is sent.

        Raises:
            UnknownAgent, UnknownMessage: an agent that would be asked is not known, or does not handle the message.
            InvalidPolicy: what an agent replies is no reply for a task; or the message cannot be sent as one says.
        """
        is_task = not isinstance(recipient, str | type)
        for fallback in fallbacks:
            if is_task and isinstance(fallback, Ask | Stale):
                raise InvalidPolicy(
                    "fallback", fallback, "Value or Send for a task; Ask and Stale for an agent's message"
                )
            if isinstance(fallback, Ask) and isinstance(message, Message):
                self._directory.address(fallback.agent, message_name(type(message)))
            elif isinstance(fallback, Send):
                self._sender.build(recipient, message, fallback.options)

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
            return self._fall_back(error, fallbacks, recipient, message, timeout_s, on_death)
        if stale is not None and isinstance(message, Message):
            self._backend().stale.remember(stale_key(recipient, message), result, to_ms(stale.max_age_s))
        return result

    def _fall_back(
        self,
        failed: Any,
        fallbacks: Sequence[Fallback],
        recipient: Any,
        message: Message | None,
        timeout_s: float,
        on_death: str,
    ) -> Any:
        """The result of the first fallback that works; raises the call's own error if none does."""
        for fallback in fallbacks:
            match fallback:
                case Ask(agent):
                    try:
                        result = self._reply(agent, message, timeout_s, on_death, raises=False)
                    except (*_NO_REPLY, *_REFUSED, *_VANISHED) as error:
                        _note(failed, fallback, error)
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
                    try:
                        delivery = self._sender.deliver(self._sender.build(recipient, message, fallback.options))
                    except (*_NOT_SENT, *_REFUSED, *_VANISHED) as error:
                        _note(failed, fallback, error)
                        continue
                    result = FallbackDelivery(delivery, failed)
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


def _give_up(backend: Backend, asks: Iterable[str]) -> None:
    """End asks whose replies are not needed. What came of the others must not be lost if Redis is away."""
    try:
        for ask_id in asks:
            backend.end_ask(ask_id, "give up")
    except BrokerUnavailable as error:
        logger.debug("asks are ended by a sweep, when their time has come: %s", error)


def _note(failed: Exception, fallback: object, error: Exception) -> None:
    """Add a note on a fallback that did not work to the error of a call."""
    failed.add_note(f"fallback {masked_repr(fallback)}: {type(error).__name__}: {error}")
