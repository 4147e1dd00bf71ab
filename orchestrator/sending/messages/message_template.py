"""Templates of messages: Celery writes one message, and others are made from its text by filling in placeholders.

Writing a message costs Celery more than all the rest of sending it, and similar messages differ in a few places of
their text only.
"""

from __future__ import annotations

import base64
import json
import secrets
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from celery import Celery

from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.publish import publish_by_celery
from orchestrator.transport.batch import PublishBatch
from orchestrator.transport.json_text import encode
from orchestrator.transport.redis.commands import DELAY_AT, MESSAGE_AT, Call, alike

#: The scripts whose messages can be made from a template.
_SCRIPTS: Final = ("publish", "delay")


@dataclass(frozen=True, slots=True)
class MessageTemplate:
    """A message's text with placeholders, and the script call that was to publish it."""

    #: A format for the ``%`` operator.
    text: str
    #: What Celery wrote in place of the placeholders, as JSON: ``id``, ``root`` and ``parent`` (ids), ``task``,
    #: ``queue``, ``body``, ``args`` and ``kwargs`` (their texts), ``reply_to``, ``priority``; and ``own``, all headers
    #: that are not Celery's.
    values: Mapping[str, str]
    #: The third part of its body, after the arguments; empty if the body is not plain JSON, so that only Celery can
    #: write it.
    embed: bytes
    #: Whether the template can be used at any later time.
    lasting: bool
    level: str
    script: str
    keys: list[str]
    _args: list[Any]

    def render(self, **placeholders: str) -> str:
        """The text with these placeholders filled in, and the others as Celery wrote them."""
        return self.text % {**self.values, **placeholders}

    def bind(self, *open_: str, **placeholders: str) -> MessageTemplate:
        """The template with all placeholders but the ``open_`` ones filled in."""
        rest = {**self.values, **placeholders}
        escaped = {name: f"%({name})s" if name in open_ else text.replace("%", "%%") for name, text in rest.items()}
        # The result is a format, too: a percent sign stays doubled.
        return replace(self, text=self.text.replace("%%", "%%%%") % escaped)

    def calls(self, messages: Mapping[str, str]) -> list[Call]:
        """The script calls that publish other messages, by their ids."""
        return alike((self.script, self.keys, self._args), self.level, messages)

    @property
    def delay_ms(self) -> int:
        """After how many ms the message that Celery wrote is due."""
        return int(self._args[DELAY_AT]) if self.script == "delay" else 0

    def body(self, args: bytes, kwargs: bytes = b"{}") -> str:
        """The body of a message with these arguments, in JSON."""
        return f'"{b2a_base64(b"[%b, %b, %b]" % (args, kwargs, self.embed), newline=False).decode()}"'


def write_template(
    app: Celery, outgoing: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str], batch: Any
) -> MessageTemplate | None:
    """The template of a message with its ``headers``; ``None`` if it does not go to exactly one mailbox.

    ``batch`` is an open batch of a kombu producer; what Celery writes into it is removed again.

    Raises:
        kombu.exceptions.EncodeError: its arguments are not JSON data.
        kombu.exceptions.OperationalError, redis.exceptions.RedisError: its mailbox could not be declared.
    """
    before: PublishBatch | None = batch.state.session
    waiting = before.take_back() if before is not None else []
    options = {"producer": batch.producer, "add_to_parent": False, "retry": False}
    publish_by_celery(app, outgoing, headers, reprs, options)
    template = take_template(batch, lambda _: headers)
    for call in waiting:
        batch.state.session.run(*call)
    return template


def around_agent(headers: Mapping[str, Any]) -> list[str]:
    """The placeholder ``own`` of a message with these headers, in two parts: the agent's name is between them."""
    mark = secrets.token_hex(16)
    marked = {**headers, HEADER: {**headers[HEADER], "agent": mark}}
    text: str = encode(marked)
    return text[1:-1].split(f'"{mark}"')


def take_template(batch: Any, own: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> MessageTemplate | None:
    """Remove the message that Celery has written into a batch, as a template; ``None`` if it is not exactly one.

    ``own`` gives the headers that are not Celery's, by all headers of the message.
    """
    session: PublishBatch | None = batch.state.session
    # Without the task-sent event of this message.
    calls = [call for call in session.take_back() if call[0]] if session is not None else []
    if session is None or len(calls) != 1 or calls[0][0] not in _SCRIPTS:
        return None
    script, keys, args = calls[0]
    message = json.loads(args[MESSAGE_AT[script]])
    return _template_of(session, own(message["headers"]), message, script, keys, args)


def _template_of(
    session: PublishBatch,
    own: Mapping[str, Any],
    message: dict[str, Any],
    script: str,
    keys: list[str],
    args: list[Any],
) -> MessageTemplate:
    headers, properties = message["headers"], message["properties"]
    info = properties["delivery_info"]
    as_ever = message["content-type"] == "application/json" and properties.get("body_encoding") == "base64"
    plain = as_ever and "compression" not in headers
    embed = encode(json.loads(base64.b64decode(message["body"]))[2]).encode() if plain else b""
    level = session.channel.level_of(message)
    values: dict[str, str] = {}
    nonce = secrets.token_hex(16)

    def placeholder(name: str, *places: tuple[dict[str, Any], str]) -> None:
        for place, key in places:
            values.setdefault(name, encode(place[key]))
            place[key] = f"{nonce}:{name}"

    placeholder("id", (headers, "id"), (properties, "correlation_id"), (properties, "delivery_tag"))
    placeholder("root", (headers, "root_id"))
    placeholder("parent", (headers, "parent_id"))
    placeholder("task", (headers, "task"))
    placeholder("queue", (info, "routing_key"))
    placeholder("body", (message, "body"))
    placeholder("args", (headers, "argsrepr"))
    placeholder("kwargs", (headers, "kwargsrepr"))
    placeholder("reply_to", (properties, "reply_to"))
    placeholder("priority", (properties, "priority"))
    for name in own:
        del headers[name]
    headers[f"{nonce}:own"] = 0
    values["own"] = encode(own)[1:-1]
    for name in ("argsrepr", "kwargsrepr"):
        # Celery writes them a second time, where they are not read.
        properties.pop(name, None)
    text = encode(message).replace("%", "%%").replace(f'"{nonce}:own": 0', "%(own)s")
    for name in values:
        text = text.replace(f'"{nonce}:{name}"', f"%({name})s")
    lasting = plain and script == "publish" and not (headers["eta"] or headers["expires"] or info["exchange"])
    return MessageTemplate(text, values, embed, lasting, level, script, keys, args)
