"""The monitor manager's housekeeping message, as a beat sends it. It is no schedule and no task of the user's."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from orchestrator.core.housekeeping import HOUSEKEEPING_MESSAGE, HOUSEKEEPING_QUEUE
from orchestrator.transport.publishing import PublishingChannel

#: No arguments and no callbacks: a dropped message has no effect.
_BODY: Final = json.dumps([[], {}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))])


def prepare_message(channel: PublishingChannel) -> dict[str, Any]:
    """The message, ready for ``basic_publish``.

    It never expires: expiry would compare the clocks of two hosts, and one late message is all that can wait.
    """
    prepared: dict[str, Any] = channel.prepare_message(
        _BODY,
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": HOUSEKEEPING_MESSAGE, "id": str(uuid.uuid4()), "lang": "py", "ignore_result": True},
    )
    return prepared


@dataclass(frozen=True, slots=True)
class HousekeepingMessage:
    """The message's text, and the keys that it goes to."""

    stream: str
    ledger: str
    _text: str
    _id: str
    _tag: str

    @classmethod
    def write(cls, channel: PublishingChannel) -> HousekeepingMessage:
        """Have a channel write it once."""
        message = prepare_message(channel)
        batch = channel.create_publish_batch(1)
        channel.basic_publish(message, exchange="", routing_key=HOUSEKEEPING_QUEUE, _publish_batch=batch)
        ((_, (stream, ledger), args),) = batch.take_back()
        properties = json.loads(args[-1])["properties"]
        text = args[-1] if isinstance(args[-1], str) else args[-1].decode()
        return cls(stream, ledger, text, message["headers"]["id"], properties["delivery_tag"])

    def text(self) -> str:
        """A copy with an id and a tag that no other one has."""
        return self._text.replace(self._id, str(uuid.uuid4())).replace(self._tag, os.urandom(16).hex())


class HousekeepingRounds:
    """Times the rounds of housekeeping that a scheduler with the turn starts, and writes their messages."""

    def __init__(self, interval_s: float, channel: Callable[[], PublishingChannel]) -> None:
        self._interval_s = interval_s
        self._channel = channel
        self._message: HousekeepingMessage | None = None
        self._due_at = 0.0

    def message(self) -> tuple[str, str, str]:
        """Stream, ledger and message of a round that is due; three empty texts if none is.

        Raises:
            kombu.exceptions.OperationalError, redis.exceptions.RedisError: Redis is away.
        """
        if monotonic() < self._due_at:
            return "", "", ""
        if self._message is None:
            self._message = HousekeepingMessage.write(self._channel())
        return self._message.stream, self._message.ledger, self._message.text()

    def sent(self) -> None:
        """A round was started."""
        self._due_at = monotonic() + self._interval_s

    def wait_s(self) -> float:
        """Seconds until the next round is due."""
        return max(0.0, self._due_at - monotonic())
