"""kombu's ``Producer.batch()`` on streams: many publishes, one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.transport.admission.flow_control import retry_until_room
from orchestrator.transport.producer_batch import BatchPublishError
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import LEDGER_AT, MESSAGE_AT, Call
from orchestrator.transport.redis.scripts import sha, source

if TYPE_CHECKING:
    from orchestrator.transport.publishing import PublishingChannel

#: At most this many messages, and bytes of messages (unless a single one has more), go into one script, because it may
#: have to dead-letter as many from a full mailbox.
_MOST_MESSAGES = 100
_MOST_BYTES = 1024 * 1024

#: Where the messages of a ``publish`` begin.
_FIRST = MESSAGE_AT["publish"]


class PublishBatch:
    """Collects script calls and sends them together.

    Plain messages to one mailbox become one call with many messages.
    """

    def __init__(self, channel: PublishingChannel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self._calls: list[Call] = []
        self._sent: list[Call] = []
        self._size = 0
        #: Bytes of the messages in the last call.
        self._bytes = 0
        #: The call that :meth:`put` adds to, and its keys.
        self._open: Call | None = None
        self._keys: tuple[str, str] | None = None
        self._failed: BaseException | None = None
        #: The connection of the last calls; the channel opens another one if it is closed.
        self._commands = channel.wire
        self._done = ""

    def publish(self, message: dict[str, Any], **kwargs: Any) -> Any:
        """Route a prepared message and collect the script calls that publish it."""
        self._check()
        result = self.channel.basic_publish(message, _publish_batch=self, **kwargs)
        if self._size >= self.max_size:
            # Its replies are read when the next calls are sent.
            self.send()
        return result

    def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> None:
        """Collect a script call, which the channel would otherwise run.

        Raises:
            MessageTooLarge: a message is larger than it may be.
        """
        if script != "publish":
            if script in MESSAGE_AT:
                self._check_size(keys, len(args[MESSAGE_AT[script]]))
            self._size += 1
            self._calls.append((script, list(keys), list(args)))
            return
        head, messages = args[:_FIRST], args[_FIRST:]
        for message in messages:
            self._check_size(keys, len(message))
        self._size += len(messages)
        last = self._calls[-1] if self._calls else None
        alike = last is not None and last[0] == script and last[1] == keys and last[2][0] == head[0]
        for message in messages:
            if not alike or last is None or len(last[2]) - _FIRST >= _MOST_MESSAGES or self._bytes >= _MOST_BYTES:
                last, alike, self._bytes = (script, list(keys), list(head)), True, 0
                self._calls.append(last)
            last[2].append(message)
            self._bytes += len(message)

    def put(self, keys: tuple[str, str], message: bytes | str, limit: int) -> None:
        """Collect a message of an allowed size for a stream, whose ``keys`` are always the same object.

        This is what most batches consist of; beside a message's encoding, :meth:`run` would be felt.
        """
        size = len(message)
        last = self._calls[-1] if self._calls else None
        if (
            last is None
            or last is not self._open
            or self._keys is not keys
            or len(last[2]) - _FIRST >= _MOST_MESSAGES
            or self._bytes >= _MOST_BYTES
            or last[2][0] != limit
        ):
            last = self._open = commands.publish(*keys, [], limit=limit)
            self._calls.append(last)
            self._keys, self._bytes = keys, 0
        last[2].append(message)
        self._size += 1
        self._bytes += size

    def _check_size(self, keys: Sequence[str], size: int) -> None:
        if size > self.channel.largest_bytes:
            self.channel.too_large(keys[0], size)

    def add(self, name: str, *args: Any) -> None:
        """Collect a plain command (kombu's fanout publishes with it)."""
        self._size += 1
        self._calls.append(("", [name.upper()], list(args)))

    def flush(self) -> None:
        """Send everything and wait for the replies.

        Raises:
            kombu.exceptions.BatchPublishError: Redis is away or refused a part; what was accepted is unknown.
        """
        self.send()
        self.receive()

    def send(self) -> None:
        """Send the collected calls without waiting for their replies. Raises as :meth:`flush`."""
        self.receive()
        self._check()
        if not self._calls:
            return
        calls, self._calls, self._size = self._calls, [], 0
        with self._failing():
            self._commands = self.channel.wire
            self._commands.begin(_packed(self._commands, calls))
            self._sent = calls

    def receive(self) -> None:
        """Wait for the replies to the sent calls. Raises as :meth:`flush`."""
        self._check()
        if not self._sent:
            return
        calls, self._sent = self._sent, []
        with self._failing():
            self._heed(calls, self._commands.end(len(calls)))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._failed = error
            if isinstance(error, Exception):
                raise BatchPublishError("publishing a batch failed; what was accepted is unknown") from error
            raise

    def _heed(self, calls: list[Call], replies: list[Any]) -> None:
        unknown = [call for call, reply in zip(calls, replies, strict=True) if isinstance(reply, NoScriptError)]
        if unknown:
            # The server did not know these scripts, so it did not run them.
            wire = self._commands
            for name in {name for name, _, _ in unknown}:
                wire.call("SCRIPT", "LOAD", source(name))
            wire.begin(_packed(wire, unknown))
            calls, replies = unknown, wire.end(len(unknown))
        accepted = 0
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, ResponseError):
                raise reply
            try:
                if type(reply) is list and call[0] in MESSAGE_AT:
                    self._insist(call, reply)
            except (MailboxFull, CircuitOpen) as error:
                error.accepted += accepted
                raise
            accepted += _count(call[0], call[2])

    def _insist(self, call: Call, reply: list[Any]) -> None:
        script, keys, args = call
        # A plain publish may hold several messages, the other scripts one.
        head = _FIRST if script == "publish" else len(args)
        queue = self.channel.keys.queue_of_ledger(keys[LEDGER_AT[script]])
        retry_until_room(
            queue,
            reply,
            _count(script, args),
            lambda done: self.channel.wire.run(script, keys, [*args[:head], *args[head + done :]]),
        )

    def take_back(self) -> list[Call]:
        """Remove the script calls collected since the last flush; returns them."""
        calls, self._calls, self._size = self._calls, [], 0
        return calls

    def discard(self) -> None:
        """Discard the calls that were not sent."""
        self._done = "aborted"
        self._calls = []
        self._abandon()

    def close(self) -> None:
        """Close the batch; using it afterwards raises ``RuntimeError``."""
        self._done = self._done or "closed"
        self._abandon()

    def _abandon(self) -> None:
        if self._sent:
            self._sent = []
            self._commands.abandon()

    def _check(self) -> None:
        if self._done:
            raise RuntimeError(f"this publish batch is {self._done}")
        if self._failed is not None:
            raise BatchPublishError("a publish batch cannot be used after it failed") from self._failed


def _count(script: str, args: Sequence[Any]) -> int:
    return len(args) - _FIRST if script == "publish" else 1


def _packed(wire: CommandConnection, calls: list[Call]) -> list[bytes]:
    pack = wire.connection.pack_command
    packed: list[bytes] = []
    for script, keys, args in calls:
        if script:
            packed.extend(pack("EVALSHA", sha(script), len(keys), *keys, *args))
        else:
            packed.extend(pack(*keys, *args))
    return packed
