"""A queue, and a consumer that collects its messages without settling them."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from kombu import Connection, Exchange, Producer, Queue

from orchestrator.core.keys import Keys
from tests.support.eventually import eventually

KEYS = Keys()
QUEUE = Queue("box", Exchange("box"), routing_key="box")


def publish(connection: Connection, *bodies: Any, **options: Any) -> None:
    with connection.channel() as channel:
        producer = Producer(channel, serializer="json")
        for body in bodies:
            producer.publish(body, exchange="", routing_key="box", **options)


class Inbox:
    """A consumer that collects its messages and settles none of them."""

    def __init__(self, connection: Connection, *, prefetch: int = 0, no_ack: bool = False) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.channel = connection.channel()
        self.consumer = connection.Consumer(
            QUEUE, callbacks=[lambda _body, message: self.messages.append(message)], channel=self.channel, no_ack=no_ack
        )
        if prefetch:
            self.consumer.qos(prefetch_count=prefetch)
        self.consumer.consume()

    def drain(self, until: int, timeout_s: float = 5) -> list[Any]:
        """Receive messages until there are `until`."""

        def enough() -> bool:
            with contextlib.suppress(socket.timeout):
                while len(self.messages) < until:
                    self.connection.drain_events(timeout=0.2)
            return len(self.messages) >= until

        eventually(enough, timeout_s)
        return self.messages

    def idle(self) -> None:
        """Give it every chance to take in one more."""
        for _ in range(3):
            with contextlib.suppress(socket.timeout):
                self.connection.drain_events(timeout=0.2)
