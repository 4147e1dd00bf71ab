"""Messages alike: Celery writes one of them, and the others are its text with the blanks filled in.

Writing a message costs Celery more than all the rest of sending it, and what differs from one to the next are a few
places in its text.
"""

from __future__ import annotations

import base64
import json
import secrets
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from celery import Celery
from kombu.utils.json import JSONEncoder

from orchestrator.sending.publish import OutgoingMessage, by_celery
from orchestrator.transport.admission.idempotency import Call
from orchestrator.transport.batch import PublishBatch

#: kombu makes an encoder for each message.
encode: Final = JSONEncoder().encode

#: Where a script's arguments have the message.
_MESSAGE_AT: Final = {"publish": 2, "delay": 1}


@dataclass(frozen=True, slots=True)
class MessageTemplate:
    """A message's text with blanks in it, and how the message was to be published."""

    #: As ``%`` wants it.
    text: str
    #: What Celery wrote into the blanks, as JSON: ``id``, ``root`` and ``parent`` (ids), ``task``, ``queue``, ``body``,
    #: ``args`` and ``kwargs`` (as they are shown), ``reply_to``, ``priority``; and ``own``, all headers not Celery's.
    values: Mapping[str, str]
    #: What its body has beside the arguments; empty if it is not plain JSON: then only Celery can make another.
    embed: bytes
    #: Whether messages like it may be made at any later time.
    lasting: bool
    step: str
    script: str
    keys: list[str]
    _args: list[Any]

    def render(self, **placeholders: str) -> str:
        """The text with these blanks filled, and the others as Celery did."""
        return self.text % {**self.values, **placeholders}

    def bind(self, *open_: str, **placeholders: str) -> MessageTemplate:
        """The form with all but the ``open_`` blanks filled."""
        rest = {**self.values, **placeholders}
        escaped = {name: f"%({name})s" if name in open_ else text.replace("%", "%%") for name, text in rest.items()}
        return replace(self, text=self.text % escaped)

    def calls(self, messages: Mapping[str, str]) -> list[Call]:
        """The script calls that publish other messages, by their ids."""
        args = self._args[: _MESSAGE_AT[self.script]]
        if self.script == "publish":
            return [(self.script, self.keys, [*args, *messages.values()])]
        after = self._args[len(args) + 1 :]
        return [(self.script, self.keys, [f"{self.step}|{id_}", text, *after]) for id_, text in messages.items()]

    def body(self, args: bytes, kwargs: bytes = b"{}") -> str:
        """The body of a message with these arguments, in JSON."""
        return f'"{b2a_base64(b"[%b, %b, %b]" % (args, kwargs, self.embed), newline=False).decode()}"'


def write_template(
    app: Celery, parcel: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str], batch: Any
) -> MessageTemplate | None:
    """The form of messages like ``parcel``, with its ``headers``; ``None`` if they do not each go to one mailbox.

    ``batch`` is an open batch of a kombu producer; what Celery writes into it is taken out again.

    Raises:
        kombu.exceptions.EncodeError: its arguments are not JSON data.
        kombu.exceptions.OperationalError, redis.exceptions.RedisError: its mailbox could not be declared.
    """
    before: PublishBatch | None = batch.state.session
    waiting = before.take_back() if before is not None else []
    by_celery(app, parcel, headers, reprs, {"producer": batch.producer, "add_to_parent": False, "retry": False})
    session: PublishBatch = batch.state.session
    # Celery's task-sent event is of this one alone.
    calls = [call for call in session.take_back() if call[0]]
    for call in waiting:
        session.run(*call)
    return _form(session, headers, *calls[0]) if len(calls) == 1 and calls[0][0] in _MESSAGE_AT else None


def _form(
    session: PublishBatch, own: Mapping[str, Any], script: str, keys: list[str], args: list[Any]
) -> MessageTemplate:
    message = json.loads(args[_MESSAGE_AT[script]])
    headers, properties = message["headers"], message["properties"]
    info = properties["delivery_info"]
    as_ever = message["content-type"] == "application/json" and properties.get("body_encoding") == "base64"
    plain = as_ever and "compression" not in headers
    embed = encode(json.loads(base64.b64decode(message["body"]))[2]).encode() if plain else b""
    step = session.channel.step_of(message)
    values: dict[str, str] = {}
    nonce = secrets.token_hex(16)

    def blank(name: str, *places: tuple[dict[str, Any], str]) -> None:
        for place, key in places:
            values.setdefault(name, encode(place[key]))
            place[key] = f"{nonce}:{name}"

    blank("id", (headers, "id"), (properties, "correlation_id"), (properties, "delivery_tag"))
    blank("root", (headers, "root_id"))
    blank("parent", (headers, "parent_id"))
    blank("task", (headers, "task"))
    blank("queue", (info, "routing_key"))
    blank("body", (message, "body"))
    blank("args", (headers, "argsrepr"))
    blank("kwargs", (headers, "kwargsrepr"))
    blank("reply_to", (properties, "reply_to"))
    blank("priority", (properties, "priority"))
    for name in own:
        del headers[name]
    headers[f"{nonce}:own"] = 0
    values["own"] = encode(own)[1:-1]
    for name in ("argsrepr", "kwargsrepr"):
        # Celery says them a second time, where nobody looks for them.
        properties.pop(name, None)
    text = encode(message).replace("%", "%%").replace(f'"{nonce}:own": 0', "%(own)s")
    for name in values:
        text = text.replace(f'"{nonce}:{name}"', f"%({name})s")
    lasting = plain and script == "publish" and not (headers["eta"] or headers["expires"] or info["exchange"])
    return MessageTemplate(text, values, embed, lasting, step, script, keys, args)
