"""A message of eager mode as its dead letter has it, byte for byte what a broker would have had, and back again."""

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

from orchestrator.agents.unhandled import unhandled
from orchestrator.core.errors import InvalidMessage
from orchestrator.core.outcome import Reason
from orchestrator.core.policy import Retry
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.sending.publish import OutgoingMessage, own_headers
from orchestrator.telemetry import tracing
from orchestrator.transport.mailbox_entry import LINEAGE, decode
from orchestrator.worker.readable import check_body, check_headers

#: How a message is executed that was sent by plain Celery.
PLAIN: Final = Supervision(retry=Retry(max_retries=0), track=False)


@dataclass(frozen=True, slots=True)
class EagerMessage:
    """A parcel as it would lie in its mailbox: all that is to be executed, as JSON data."""

    parcel: OutgoingMessage
    args: Any
    kwargs: Any
    #: What follows it: callbacks, errbacks, chain and chord, as Celery writes them.
    embed: Mapping[str, Any]
    queue: str
    #: The trace context in its headers.
    carried: Mapping[str, str]
    #: Where it comes from, if it is a dead letter that is sent again.
    lineage: Mapping[str, Any] | None = None


class Unreadable(ValueError):
    """A letter whose message cannot be executed here; has what its next letter says of that."""

    def __init__(self, reason: Reason, error: str, text: str) -> None:
        super().__init__(f"{error}: {text}")
        self.reason, self.error, self.text = reason, error, text


def eager_message_of(parcel: OutgoingMessage, queue: str, carried: Mapping[str, str]) -> EagerMessage:
    """A parcel that was handed in.

    Raises:
        InvalidMessage: its arguments are not JSON data.
    """
    follows = {
        "callbacks": list(parcel.link) or None,
        "errbacks": list(parcel.link_error) or None,
        "chain": None,
        "chord": None,
    }
    try:
        args, kwargs = json.loads(json.dumps([list(parcel.args), dict(parcel.kwargs)]))
        return EagerMessage(parcel, args, kwargs, json.loads(dumps(follows)), queue, carried)
    except (TypeError, ValueError) as error:
        raise InvalidMessage(parcel.task, [str(error)]) from error


def encode_message(mail: EagerMessage, supervision: Supervision, attempt: int) -> bytes:
    """The message as its letter keeps it after that attempt."""
    parcel = mail.parcel
    body = base64.b64encode(json.dumps([mail.args, mail.kwargs, mail.embed]).encode()).decode()
    return json.dumps(
        {
            "body": body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {
                "task": parcel.task,
                "id": parcel.id,
                "retries": attempt - 1,
                **own_headers(parcel),
                **({} if parcel.supervision == PLAIN else {HEADER: supervision.to_wire()}),
                **({LINEAGE: dict(mail.lineage)} if mail.lineage else {}),
                **mail.carried,
            },
            "properties": {
                "body_encoding": "base64",
                "correlation_id": parcel.id,
                "delivery_info": {"exchange": "", "routing_key": mail.queue},
            },
        }
    ).encode()


def decode_message(app: Celery, queue: str, raw: bytes) -> EagerMessage:
    """What a letter holds, to be executed again.

    Raises:
        Unreadable: nothing can be made of it.
    """
    try:
        headers, body = _opened(app, queue, raw)
        supervision = check_headers(headers)
        check_body(body)
        args, kwargs, embed = body
        embed = embed or {}
        link, link_error = _signatures(app, embed.get("callbacks")), _signatures(app, embed.get("errbacks"))
        # Celery keeps the rest of a chain with its next task at the end.
        if rest := _signatures(app, embed.get("chain"))[::-1]:
            link.append(chain(*rest, app=app) if len(rest) > 1 else rest[0])
    except Unreadable:
        raise
    except Exception as error:
        # An imported letter holds whatever somebody has sent; decoders raise what their values' constructors do.
        raise Unreadable(Reason.MALFORMED, type(error).__name__, str(error)) from error
    task = headers["task"]
    if task not in app.tasks:
        unknown = unhandled(app.orchestrator.agents, task)
        if unknown is not None:
            raise Unreadable(Reason.UNKNOWN_MESSAGE, type(unknown).__name__, str(unknown))
        raise Unreadable(Reason.UNKNOWN_TASK, "NotRegistered", f"no task {task!r} is registered here")
    parcel = OutgoingMessage(
        headers["id"], task, args, supervision or PLAIN, kwargs, queue=queue, link=link, link_error=link_error
    )
    carried = {name: headers[name] for name in tracing.CARRIED if isinstance(headers.get(name), str)}
    return EagerMessage(parcel, args, kwargs, embed, queue, carried, headers.get(LINEAGE))


def _opened(app: Celery, queue: str, raw: bytes) -> tuple[dict[str, Any], Any]:
    """Headers and body of a message, as a worker would read them."""
    payload = decode(raw, tag="", queue=queue, redelivered=False)
    headers: dict[str, Any] = payload["headers"]
    if not isinstance(headers.get("task"), str):
        raise Unreadable(Reason.MALFORMED, "UnknownFormat", "not a Celery task message")
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


def _signatures(app: Celery, said: Any) -> list[Signature]:
    return [_of_app(app, one) for one in said or ()]


def _of_app(app: Celery, said: Any) -> Signature:
    """A signature whose parts are the app's too; Celery would look for them in whatever app is current."""
    signature = maybe_signature(dict(said), app=app)
    if isinstance(signature, _chain | group):
        signature.tasks = [_of_app(app, one) for one in signature.tasks]
    elif isinstance(signature, chord):
        header = signature.tasks
        signature.tasks = _of_app(app, header) if isinstance(header, dict) else [_of_app(app, one) for one in header]
        signature.body = _of_app(app, signature.body)
    return signature
