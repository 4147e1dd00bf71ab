"""Many messages alike: Celery writes one of them, and the others are made like it.

Writing a message costs Celery more than all the rest of sending it. What differs from one to the next are a few
places in its text; here they are slots.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery

from orchestrator.core.redact import redact
from orchestrator.core.supervision import HEADER
from orchestrator.sending.publish import Parcel, publish
from orchestrator.transport.batch import PublishBatch
from orchestrator.transport.once import Call

#: Of a message's arguments, so many characters are shown; Celery's own limit.
_SHOWN: Final = 1024

#: What Celery's protocol 2 has beside the arguments, where nothing of it is used.
_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@dataclass(frozen=True, slots=True)
class Mould:
    """A message's text, with slots, and the script call that is to publish it."""

    text: str
    nonce: str
    call: Call

    def parts(self) -> list[str]:
        """The text cut at its slots: what is fixed, and at the odd places the names of slots."""
        return re.split(rf"@{self.nonce}:(\w+)@", self.text)


def mould(app: Celery, parcel: Parcel, hidden: tuple[str, ...], batch: Any, *, nonce: str) -> Mould:
    """The mould of messages like ``parcel``, with slots for id, tag, body, args, agent, task and queue.

    ``batch`` is an open batch of ``app``'s producer; what Celery writes into it is taken out again.

    Raises:
        InvalidMessage: its arguments are not JSON data.
        BrokerUnavailable: its mailbox could not be declared.
    """
    publish(app, parcel, hidden, producer=batch.producer)
    session: PublishBatch = batch.state.session
    ((script, keys, args),) = session.take_back()
    at = body_at(script)
    message = json.loads(args[at])

    def slot(name: str) -> str:
        return f"@{nonce}:{name}@"

    headers, properties = message["headers"], message["properties"]
    message["body"] = slot("body")
    if headers["root_id"] == headers["id"]:
        headers["root_id"] = slot("id")
    headers["id"] = properties["correlation_id"] = slot("id")
    headers["task"] = slot("task")
    headers["argsrepr"] = slot("args")
    headers[HEADER]["agent"] = slot("agent")
    if "argsrepr" in properties:
        properties["argsrepr"] = slot("args")
    properties["delivery_tag"] = slot("tag")
    properties["delivery_info"]["routing_key"] = slot("queue")
    return Mould(json.dumps(message), nonce, (script, keys, args))


def body_at(script: str) -> int:
    """Where a script's arguments have the message."""
    return {"publish": 2, "delay": 1}[script]


def body_of(args: Sequence[Any]) -> str:
    """A message's body on the wire."""
    return base64.b64encode(json.dumps([list(args), {}, _EMBED]).encode()).decode()


def shown(args: Sequence[Any], hidden: tuple[str, ...]) -> str:
    """A message's arguments as logs and Flower show them, inside a JSON text."""
    text = repr(redact(list(args), hidden))
    return json.dumps(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")[1:-1]


def new_nonce() -> str:
    """Marks slots; no text of a user's holds it."""
    return secrets.token_hex(16)


def filled(parts: list[str], names: Mapping[str, str]) -> str:
    """The text with its slots filled; names without a value keep their slot."""
    whole = list(parts)
    for place in range(1, len(parts), 2):
        whole[place] = names[parts[place]]
    return "".join(whole)
