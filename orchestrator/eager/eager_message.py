"""Eager mode's messages, encoded for their dead letters as a broker would have them, and decoded for a replay."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery, chain
from celery.canvas import Signature, _chain, chord, group, maybe_signature
from kombu.message import Message
from kombu.serialization import prepare_accept_content
from kombu.utils.json import dumps

from orchestrator.agents.unhandled_message import unhandled
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.core.errors import InvalidMessage
from orchestrator.core.policies.policy import Retry
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, own_headers
from orchestrator.telemetry import tracing
from orchestrator.transport.mailbox_entry import LINEAGE, decode
from orchestrator.worker.requests.message_format import check_body, check_headers

#: Supervision of a message that plain Celery sent: one attempt, no recorded outcome.
PLAIN: Final = Supervision(retry=Retry(max_retries=0), track=False)


@dataclass(frozen=True, slots=True)
class EagerMessage:
    """An outgoing message as its mailbox would hold it: arguments and what follows it, as JSON data."""

    outgoing: OutgoingMessage
    args: Any
    kwargs: Any
    #: Callbacks, errbacks, chain and chord, as Celery writes them.
    embed: Mapping[str, Any]
    queue: str
    #: The trace context in its headers.
    trace: Mapping[str, str]
    #: The dead letter that it was replayed from, if it was.
    lineage: Mapping[str, Any] | None = None


class UnreadableMessage(ValueError):
    """A dead letter's message cannot be executed here; ``reason``, ``error`` and ``text`` go into its next letter."""

    def __init__(self, reason: Reason, error: str, text: str) -> None:
        super().__init__(f"{error}: {text}")
        self.reason, self.error, self.text = reason, error, text


def eager_message_of(outgoing: OutgoingMessage, queue: str, trace: Mapping[str, str]) -> EagerMessage:
    """Encode the arguments and callbacks of a message that a sender has handed in.

    Raises:
        InvalidMessage: its arguments are not JSON data.
    """
    embed = {
        "callbacks": list(outgoing.link) or None,
        "errbacks": list(outgoing.link_error) or None,
        "chain": None,
        "chord": None,
    }
    try:
        args, kwargs = json.loads(json.dumps([list(outgoing.args), dict(outgoing.kwargs)]))
        return EagerMessage(outgoing, args, kwargs, json.loads(dumps(embed)), queue, trace)
    except (TypeError, ValueError) as error:
        raise InvalidMessage(outgoing.task, [str(error)]) from error


def encode_message(message: EagerMessage, supervision: Supervision, attempt: int) -> bytes:
    """The message as its dead letter keeps it after attempt number ``attempt``."""
    outgoing = message.outgoing
    body = base64.b64encode(json.dumps([message.args, message.kwargs, message.embed]).encode()).decode()
    return json.dumps(
        {
            "body": body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {
                "task": outgoing.task,
                "id": outgoing.id,
                "retries": attempt - 1,
                **own_headers(outgoing),
                **({} if outgoing.supervision == PLAIN else {HEADER: supervision.to_wire()}),
                **({LINEAGE: dict(message.lineage)} if message.lineage else {}),
                **message.trace,
            },
            "properties": {
                "body_encoding": "base64",
                "correlation_id": outgoing.id,
                "delivery_info": {"exchange": "", "routing_key": message.queue},
            },
        }
    ).encode()


def decode_message(app: Celery, queue: str, raw: bytes) -> EagerMessage:
    """Decode a dead letter's message for a replay.

    Raises:
        UnreadableMessage: it is malformed, or its task is not registered here.
    """
    try:
        headers, body = _open(app, queue, raw)
        supervision = check_headers(headers)
        check_body(body)
        args, kwargs, embed = body
        embed = embed or {}
        link, link_error = _signatures(app, embed.get("callbacks")), _signatures(app, embed.get("errbacks"))
        # Celery keeps the rest of a chain with its next task at the end.
        if rest := _signatures(app, embed.get("chain"))[::-1]:
            link.append(chain(*rest, app=app) if len(rest) > 1 else rest[0])
    except UnreadableMessage:
        raise
    except Exception as error:
        # An imported letter may hold anything; decoders raise whatever their values' constructors raise.
        raise UnreadableMessage(Reason.MALFORMED, type(error).__name__, str(error)) from error
    task = headers["task"]
    if task not in app.tasks:
        unknown = unhandled(app.orchestrator.agents, task)
        if unknown is not None:
            raise UnreadableMessage(Reason.UNKNOWN_MESSAGE, type(unknown).__name__, str(unknown))
        raise UnreadableMessage(Reason.UNKNOWN_TASK, "NotRegistered", f"no task {task!r} is registered here")
    outgoing = OutgoingMessage(
        headers["id"], task, args, supervision or PLAIN, kwargs, queue=queue, link=link, link_error=link_error
    )
    trace = {name: headers[name] for name in tracing.CARRIED if isinstance(headers.get(name), str)}
    return EagerMessage(outgoing, args, kwargs, embed, queue, trace, headers.get(LINEAGE))


def _open(app: Celery, queue: str, raw: bytes) -> tuple[dict[str, Any], Any]:
    """The headers and the decoded body of a message, read as a worker reads them."""
    payload = decode(raw, tag="", queue=queue, redelivered=False)
    headers: dict[str, Any] = payload["headers"]
    if not isinstance(headers.get("task"), str):
        raise UnreadableMessage(Reason.MALFORMED, "UnknownFormat", "not a Celery task message")
    body = payload["body"]
    encoded = payload["properties"].get("body_encoding") == "base64"
    message = Message(
        base64.b64decode(body) if encoded else body,
        content_type=payload.get("content-type"),
        content_encoding=payload.get("content-encoding"),
        headers=headers,
        accept=prepare_accept_content(app.conf.accept_content),
    )
    return headers, message.decode()


def _signatures(app: Celery, wires: Any) -> list[Signature]:
    return [_of_app(app, wire) for wire in wires or ()]


def _of_app(app: Celery, wire: Any) -> Signature:
    """A signature whose parts are bound to the app as well; Celery would look them up in the current app."""
    signature = maybe_signature(dict(wire), app=app)
    if isinstance(signature, _chain | group):
        signature.tasks = [_of_app(app, one) for one in signature.tasks]
    elif isinstance(signature, chord):
        header = signature.tasks
        signature.tasks = _of_app(app, header) if isinstance(header, dict) else [_of_app(app, one) for one in header]
        signature.body = _of_app(app, signature.body)
    return signature
