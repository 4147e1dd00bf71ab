"""Asks whose reply is a message: the request, and the reply that Redis is to write when the request has ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from time import time
from typing import Any, Final

from celery import Celery

from orchestrator.core.calls.conversation import CURRENT as CONVERSATION
from orchestrator.core.calls.reply import check_tag, reply_name
from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.attempt_limits import CURRENT
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy, UnknownMessage
from orchestrator.core.message import Message
from orchestrator.core.policies.policy import OnError, Retry, WhenDown
from orchestrator.sending.address import Directory
from orchestrator.sending.backend import Backend
from orchestrator.sending.calls.call import check_call_options, check_timeout
from orchestrator.sending.calls.reply_text import ReplyText
from orchestrator.sending.destination import checked_queue_of
from orchestrator.sending.dispatch import send_with_events
from orchestrator.sending.messages.agent_messages import build_agent_message, build_agent_messages, build_celery_message
from orchestrator.sending.messages.outgoing_message import AskRequest, OutgoingMessage, queue_name
from orchestrator.sending.messages.recorded_message import record_message
from orchestrator.sending.send_events import events_of_many
from orchestrator.sending.send_options import SendOptions, check_options
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.ask_record import AskRecord, InboxReply, MailReply, RecordedFallback
from orchestrator.transport.store import Store

#: How long an inbox is kept after its asker should have read it.
_INBOX_MS: Final = 60_000


#: One attempt, no dead letter: the asker gets the error. If nobody hosts the agent, somebody may before the timeout.
_REQUEST: Final = check_options(
    SendOptions(retry=Retry(max_retries=0), on_error=OnError.IGNORE, when_down=WhenDown.QUEUE)
)


class Asker:
    """Sends the asks of one app's agents."""

    def __init__(self, app: Celery, directory: Directory, backend: Callable[[], Backend]) -> None:
        self._app = app
        self._directory = directory
        self._backend = backend
        #: By asker and message, the replies outside of conversations: they differ in id and fields only.
        self._replies: dict[tuple[str, str], OutgoingMessage] = {}

    def ask(
        self, asker: str, recipient: Any, message: Message, timeout_s: float, tag: Any, on_death: str = "again"
    ) -> str:
        """Ask an agent, and have the reply put into the mailbox of ``asker``; returns the ask's id.

        Raises:
            InvalidPolicy: ``recipient``, ``message``, ``timeout_s`` or ``tag`` has a value that is not allowed.
            InvalidDeclaration: no method of the asker gets replies to that message.
            DeadlinePassed: the deadline of what the asker handles has passed.
            OrchestratorError: as a send.
        """
        tag_json = check_tag(tag)
        now_s, ends_by_s = self._check_times(recipient, timeout_s, on_death)
        request = build_agent_message(self._directory, recipient, message, replace(_REQUEST, ends_by_s=ends_by_s))
        asked = request.supervision
        reply = self._reply(asker, asked.message)
        fields = {"id": request.id, "agent": asked.agent, "message": asked.message, "tag": json.loads(tag_json)}
        reply = replace(reply, id=f"reply-{request.id}", args=[fields])
        request = replace(
            request,
            supervision=replace(asked, ask=True, on_death="fail" if on_death == "fail" else ""),
            ask=AskRequest(request.id, ends_by_s - now_s, reply),
        )
        checked_queue_of(self._app, request)
        send_with_events(self._backend(), request)
        emit(events.ASKED, agent=asked.agent, message=asked.message, id=request.id, asker=asker)
        return request.id

    def ask_many(
        self,
        asker: str,
        recipient: Any,
        messages: Iterable[Message],
        timeout_s: float,
        tags: Iterable[Any] | None,
        on_death: str = "again",
    ) -> list[str]:
        """Ask an agent by each of the messages, as :meth:`ask` does, in few round trips; returns the asks' ids.

        Raises:
            OrchestratorError: as :meth:`ask`. An error of flow control says in ``accepted`` after how many.
        """
        now_s, ends_by_s = self._check_times(recipient, timeout_s, on_death)
        asked = build_agent_messages(self._directory, recipient, messages, replace(_REQUEST, ends_by_s=ends_by_s))
        fields = _checked_tags(tags, len(asked))
        if not asked:
            return []
        #: By message, the first request and its reply: the others differ in id and fields only.
        first_of: dict[str, tuple[OutgoingMessage, OutgoingMessage]] = {}
        requests = []
        for message, tag in zip(asked, fields, strict=True):
            name = message.supervision.message
            if name not in first_of:
                supervision = replace(message.supervision, ask=True, on_death="fail" if on_death == "fail" else "")
                checked_queue_of(self._app, message)
                first_of[name] = replace(message, supervision=supervision), self._reply(asker, name)
            first, reply = first_of[name]
            about = {"id": message.id, "agent": message.supervision.agent, "message": name, "tag": tag}
            ask = AskRequest(message.id, ends_by_s - now_s, reply.with_body(f"reply-{message.id}", [about]))
            requests.append(first.with_body(message.id, message.args, ask))
        with events_of_many(requests):
            self._backend().ask_many(requests)
        for request in requests:
            asked_by = request.supervision
            emit(events.ASKED, agent=asked_by.agent, message=asked_by.message, id=request.id, asker=asker)
        return [request.id for request in requests]

    def _check_times(self, recipient: Any, timeout_s: float, on_death: str) -> tuple[float, float]:
        """Now, and when an ask that is made now ends, in seconds since the epoch. Raises as :meth:`ask`."""
        check_call_options(timeout_s, on_death, None, None)
        wait_s = check_timeout(timeout_s) * self._directory.timeouts.factor
        limits, now_s = CURRENT.get(), time()
        ends_by_s = now_s + wait_s
        if limits is not None and limits.deadline_at_s is not None:
            ends_by_s = min(ends_by_s, limits.deadline_at_s)
        if not isinstance(recipient, str | type):
            raise InvalidPolicy("recipient", recipient, "an agent's name or an Agent class")
        return now_s, ends_by_s

    def _reply(self, asker: str, message: str) -> OutgoingMessage:
        if CONVERSATION.get() is not None:
            return self._new_reply(asker, message)
        known = self._replies.get((asker, message))
        if known is None:
            known = self._replies[asker, message] = self._new_reply(asker, message)
        return known

    def _new_reply(self, asker: str, message: str) -> OutgoingMessage:
        try:
            address = self._directory.address(asker, reply_name(message))
        except UnknownMessage:
            raise InvalidDeclaration(
                f"agent {asker!r} asks with {message} and then=True, but no method of it gets the reply; "
                f"allowed: a method marked with @replies({message})"
            ) from None
        reply = build_celery_message(address, self._directory.timeouts, None, ())
        # Redis sends it, perhaps much later.
        return replace(reply, expires_s=None, supervision=replace(reply.supervision, deadline_at_s=None))


def _checked_tags(tags: Iterable[Any] | None, count: int) -> list[Any]:
    """The tags of ``count`` asks, as JSON data.

    Raises:
        InvalidPolicy: a tag is no JSON data or too long, or there are not ``count`` of them.
    """
    if tags is None:
        return [None] * count
    if isinstance(tags, str | bytes | Mapping) or not isinstance(tags, Iterable):
        raise InvalidPolicy("tags", tags, "a list with one tag for each message, or None")
    found = [json.loads(check_tag(tag)) for tag in tags]
    if len(found) != count:
        raise InvalidPolicy("tags", f"{len(found)} of them", f"one for each of the {count} messages, or None")
    return found


def ask_record(app: Celery, store: Store, request: OutgoingMessage, hidden: tuple[str, ...]) -> AskRecord | None:
    """The record that is written to Redis with the request of an ask; ``None`` if the message is no ask."""
    ask = request.ask
    if ask is None:
        return None
    timeout_ms = max(1, to_ms(ask.timeout_s))
    parts: list[MailReply | InboxReply | RecordedFallback] = []
    if ask.reply is not None:
        parts.append(_mail_reply(app, store, ask.reply))
    if ask.inbox is not None:
        parts.append(InboxReply(*ask.inbox, timeout_ms + _INBOX_MS))
    if ask.fallback is not None:
        parts.append(_recorded(app, ask.fallback, hidden))
    most, wait_s = (0, 0.0) if request.bulkhead is None else (request.bulkhead.calls, request.bulkhead.wait_s)
    outcome_ms = to_ms(store.options.outcome_ttl_s)
    wait_ms = to_ms(min(wait_s, ask.timeout_s))
    return AskRecord(ask.id, request.id, ask.kind, timeout_ms, outcome_ms, parts, most, wait_ms)


def _recorded(app: Celery, message: OutgoingMessage, hidden: tuple[str, ...]) -> RecordedFallback:
    allowed = "a durable Send to an agent with one mailbox of its own"
    recorded = record_message(app, message, hidden, "fallback", allowed)
    return RecordedFallback(recorded.agent, recorded.delivery, recorded.queue, recorded.level, recorded.text)


def _mail_reply(app: Celery, store: Store, reply: OutgoingMessage) -> MailReply:
    before, after = ReplyText(app, reply).parts(reply)
    return MailReply(reply.supervision.agent, queue_name(reply), store.level_of(reply.priority), before, after)
