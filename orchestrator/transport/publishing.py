"""The channel's sending half: a message is accepted by one script, once, however often its reply is lost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.errors import MessageTooLarge
from orchestrator.core.log import get_logger
from orchestrator.transport.admission.ask_record import AskRecord, HostGone, SharedRecord, ToLiving, record_of
from orchestrator.transport.admission.flow_control import retry_until_room
from orchestrator.transport.admission.idempotency import idempotency_key_of
from orchestrator.transport.admission.publish_dedup import Unanswered
from orchestrator.transport.batch import PublishBatch
from orchestrator.transport.json_text import encode
from orchestrator.transport.letter_draft import LetterDraft
from orchestrator.transport.mailboxes import MailboxChannel, is_control_reply
from orchestrator.transport.options import LARGE_BYTES
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import AskTexts, Attempt, Call
from orchestrator.transport.redis.refusals import RefusesForNow

logger = get_logger(__name__)

_unanswered = Unanswered()

#: Pause before the next request where Redis cannot be slept on.
_PAUSE_S: Final = 0.05


class PublishingChannel(MailboxChannel):
    """A channel that publishes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._publish_keys: dict[tuple[str, str], tuple[str, str]] = {}
        #: The batch that collects what is published, if there is one.
        self._collects: PublishBatch | None = None
        self._unrouted = False
        #: Queues for which a large message was logged.
        self._warned_of: set[str] = set()
        super().__init__(*args, **kwargs)
        self.largest_bytes = self.options.max_message_bytes or LARGE_BYTES

    def level(self, priority: int) -> str:
        """The level of a mailbox for new messages of a priority."""
        return str(self.priority(priority))

    def level_of(self, message: Mapping[str, Any]) -> str:
        """The level of its mailbox that a message's priority puts it in."""
        return self.level(self._get_message_priority(message, reverse=False))

    def accept(self, queue: str, level: str, message: str, said: Hashable, batch: PublishBatch | None = None) -> None:
        """Put a message, as it will lie in Redis, into one level of a mailbox; with ``batch``, when that is sent.

        ``said`` identifies the message to its sender. When the reply was lost and the sender publishes the same
        ``said`` again, no second message is added.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable, or refused it.
            MailboxFull, CircuitOpen: flow control stopped it.
            MessageTooLarge: it is larger than it may be.
            HostGone: the incarnation that hosts its agent lives no more, and the message is for a living one only.
        """
        if len(message) > self.largest_bytes:
            self.too_large(queue, len(message))
        if queue in self._expires:
            # A message put into it is a use of it, so it lives on for that long.
            (self.wire.run if batch is None else batch.run)(*self._declaration(queue))
        keys = self._publish_keys.get((queue, level))
        if keys is None:
            keys = self._publish_keys[queue, level] = (self.keys.stream(queue, level), self.keys.ledger(queue))
        limit = self._max_length.get(queue, 0)
        if batch is not None:
            batch.put(keys, message, limit)
            return
        to_existing = is_control_reply(queue)
        ask = record_of(said)

        def call(attempt: Attempt) -> Call:
            if ask is not None:
                return ask.call(self.keys, queue, level, message, limit, attempt)
            return commands.publish(*keys, [message], limit=limit, to_existing=to_existing, attempt=attempt)

        waits = ask.connection if isinstance(ask, ToLiving) else None

        def accepted(_: int = 0) -> Any:
            reply = self._once(said, call, waits)
            if type(reply) is list and reply[0] == b"down":
                raise HostGone
            return reply

        asked = ask if isinstance(ask, AskRecord) else None
        try:
            reply = accepted()
            if type(reply) is list:
                retry_until_room(queue, reply, 1, accepted, partial(self._sleep, asked.id) if asked else None)
        except (RedisError, OSError):
            raise
        except BaseException:
            if asked is not None and asked.in_flight and asked.wait_ms:
                self._leave_line(queue, asked.id)
            raise

    def _leave_line(self, queue: str, ask_id: str) -> None:
        """Have a request whose caller waits no more, for whatever reason, keep no place from those behind it."""
        with suppress(RedisError, OSError):
            self.wire.run(*commands.leave_line(self.keys, queue, ask_id))

    def _sleep(self, ask_id: str, longest_s: float) -> None:
        """Sleep until the request of an ask, which waits for a bulkhead, is woken; at most for so long."""
        began_s = monotonic()
        try:
            self.wire.call("BLPOP", self.keys.wake(ask_id), max(0.001, longest_s))
        except RedisError:
            # What is wrong, the next request says.
            threading.Event().wait(max(0.0, min(_PAUSE_S, longest_s - (monotonic() - began_s))))

    def accept_asks(self, queue: str, level: str, record: SharedRecord, requests: Sequence[AskTexts]) -> bool:
        """Put the requests of asks into one level of a mailbox, all or none.

        Returns:
            Whether they were accepted. If not, the mailbox' flow control has to be asked for each.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable, or refused them.
            MessageTooLarge: one is larger than it may be.
        """
        for request in requests:
            if len(request.message) > self.largest_bytes:
                self.too_large(queue, len(request.message))
        if queue in self._expires:
            self.wire.run(*self._declaration(queue))
        said = queue, requests[0].id, len(requests)
        return bool(self._once(said, lambda attempt: record.call(self.keys, queue, level, requests, attempt)))

    def too_large(self, queue: str, size: int) -> None:
        """Refuse a message of that many bytes, or warn of it where no limit is set.

        Raises:
            MessageTooLarge: it is larger than it may be.
        """
        limit = self.options.max_message_bytes
        if limit and size > limit:
            raise MessageTooLarge(size, limit)
        if not limit and size > LARGE_BYTES and queue not in self._warned_of:
            self._warned_of.add(queue)
            logger.warning(
                "message of %d bytes for %s: each script that moves it holds Redis from all others for a long time; "
                "max_message_bytes refuses such messages",
                size,
                queue,
            )

    def _once(
        self, said: Hashable, call: Callable[[Attempt], Call], connection: CommandConnection | None = None
    ) -> Any:
        """Run a script that publishes what is ``said``, so that it is accepted once however often the reply is lost."""
        wire = connection or self.wire
        attempt = _unanswered.attempt(said, self.keys, wire.name)
        try:
            return wire.run(*call(attempt))
        except ResponseError:
            raise
        except RefusesForNow:
            # Nothing was done this time; an earlier try may have been.
            _unanswered.lost(said, attempt)
            raise
        except (RedisError, OSError):
            _unanswered.lost(said, attempt)
            raise

    def _next_delivery_tag(self) -> str:
        # As unique as kombu's, at a fifth of the price.
        return os.urandom(16).hex()

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch: PublishBatch | None = kwargs.get("_publish_batch")
        headers = message.get("headers") or {}
        delay_ms = _delay_ms(headers)
        body = encode(message)
        once = idempotency_key_of(message)
        level = self.level_of(message)
        said = queue, headers.get("id") or message["body"], headers.get("retries")
        if delay_ms <= 0 and once is None:
            self.accept(queue, level, body, said, batch)
            return
        if len(body) > self.largest_bytes:
            self.too_large(queue, len(body))
        run = self.wire.run if batch is None else batch.run
        k, expires_ms = self.keys, self._expires.get(queue, 0)
        if expires_ms:
            run(*self._declaration(queue))
        member = f"{level}|{os.urandom(12).hex()}"

        def call(attempt: Attempt | None = None) -> Call:
            if once is not None:
                return once.call(k, queue, level, message, body, delay_ms, attempt)
            return commands.delay(k, queue, member, body, delay_ms, expires_ms=expires_ms, attempt=attempt)

        if batch is not None:
            batch.run(*call())
            return
        reply = self._once(said, call)
        if type(reply) is list:
            retry_until_room(queue, reply, 1, lambda _: self._once(said, call))

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> Any:
        found = super()._lookup(exchange, routing_key, default)
        self._unrouted = not found
        return found

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish. A task message that no binding routes to a queue becomes a dead letter; kombu would lose it."""
        if self._collects is not None and "_publish_batch" not in kwargs:
            return self._collects.publish(message, exchange=exchange, routing_key=routing_key, **kwargs)
        if not exchange:
            # To a mailbox by its name, as Celery does; nothing is to be looked up.
            self._inplace_augment_message(message, exchange, routing_key)
            return self._put(routing_key, message, **kwargs)
        self._unrouted = False
        result = super().basic_publish(message, exchange, routing_key, **kwargs)
        if self._unrouted and "task" in (message.get("headers") or {}):
            self._dead_letter_unroutable(message, exchange, routing_key)
        return result

    def _dead_letter_unroutable(self, message: dict[str, Any], exchange: str, routing_key: str) -> None:
        text = f"no queue is bound to exchange {exchange!r} with routing key {routing_key!r}"
        letter = LetterDraft(Reason.UNROUTABLE.value, "Unroutable", text)
        headers = message["headers"]
        said = exchange, routing_key, headers.get("id"), headers.get("retries")
        raw, full = encode(message), json.dumps(letter.fields(routing_key))
        self._once(
            said,
            lambda attempt: commands.dead_letter_unsent(
                self.keys, routing_key, raw, full, letter.reason, letter.error, text, attempt=attempt
            ),
        )
        letter.emit(agent="", message=str(headers["task"]), delivery_id=str(headers.get("id", "")), error=text)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """A pipeline for ``kombu.Producer.batch()``."""
        return PublishBatch(self, max_size)

    @contextmanager
    def collecting(self, batch: PublishBatch) -> Iterator[None]:
        """Collect in ``batch`` what is published meanwhile. Of use with kombu 5.6; see ``producer_batch.py``."""
        self._collects = batch
        try:
            yield
        finally:
            self._collects = None


def _delay_ms(headers: Mapping[str, Any]) -> int:
    """Milliseconds until the message is due, by the clock of the sender that set its ``eta``; at most 0 if due.

    Only the difference goes to Redis, so clocks that disagree do no harm.
    """
    eta = headers.get("eta")
    if not eta or not isinstance(eta, str):
        return 0
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return 0
    if due.tzinfo is None:
        due = due.replace(tzinfo=UTC)
    return to_ms((due - datetime.now(UTC)).total_seconds())
