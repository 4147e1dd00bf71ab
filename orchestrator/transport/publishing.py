"""The channel's sending half: connections, publishing, and the mailboxes themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from kombu.utils.json import JSONEncoder
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import MessageTooLarge
from orchestrator.core.keys import DOORBELL, GROUP, Keys, steps_of
from orchestrator.core.log import get_logger
from orchestrator.core.outcome import Reason
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.flow_control import retry_until_room
from orchestrator.transport.admission.idempotency import Call, idempotency_key_of
from orchestrator.transport.admission.publish_dedup import Unanswered
from orchestrator.transport.batch import PublishBatch
from orchestrator.transport.older_kombu import KombuChannel
from orchestrator.transport.options import LARGE_BYTES, Options
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.connections import SocketConnection, TcpConnection, TlsConnection
from orchestrator.transport.redis.inherited_descriptors import INHERITED
from orchestrator.transport.redis.refusals import RefusesForNow, as_unavailable, is_full
from orchestrator.transport.redis.unix_socket import unix_socket

logger = get_logger(__name__)

#: Patience with Redis where kombu's options set none: no wait without an end.
_SOCKET_TIMEOUT_S = 5.0

#: What kombu says of every connection, and a Unix socket's cannot be told.
_TCP_ONLY = ("host", "port", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")

#: Messages that one script drops: each is decoded, and its outcome recorded.
_DROP_BATCH = 100

#: kombu makes an encoder for each message.
_encode = JSONEncoder().encode

_unanswered = Unanswered()


class PublishingChannel(KombuChannel):
    """A channel that keeps mailboxes in Redis streams. Fanout (events, remote control) stays as kombu has it."""

    connection_class: type[Any] = TcpConnection
    connection_class_ssl: type[Any] = TlsConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._commands: CommandConnection | None = None
        self._max_length: dict[str, int] = {}
        self._publish_keys: dict[tuple[str, str], list[str]] = {}
        self._collects: PublishBatch | None = None
        self._reply_queues: set[str] = set()
        self._unrouted = False
        transport: Any = args[0] if args else kwargs["connection"]
        client = transport.client
        self.options = Options.from_transport_options(client.transport_options)
        self.largest_bytes = self.options.max_message_bytes or LARGE_BYTES
        self._warned_of: set[str] = set()
        self._unix_socket = unix_socket(client.hostname, client.virtual_host)
        if self._unix_socket is not None:
            self.connection_class = SocketConnection
        with as_unavailable():
            # With its disk full, Redis refuses even a PING.
            super().__init__(*args, **kwargs)
        self.keys = Keys(self.global_keyprefix)
        self.steps = steps_of(self.priority_steps)

    # -- connections

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if getattr(self.connection, "client", None) is None:
            # kombu has closed this channel, perhaps within a publish that goes on with it: it tries again over another.
            raise RedisConnectionError("the channel was closed with its connection")
        params: dict[str, Any] = super()._connparams(asynchronous)
        params["broker"] = self.connection.broker
        for name in ("socket_timeout", "socket_connect_timeout"):
            if params.get(name) is None and (name == "socket_timeout" or "path" not in params):
                # Longer than a gap in the sweeps: a Redis that hangs must be known to have hung before the first
                # heartbeat gives up and closes its connection, which would look like a death.
                params[name] = max(_SOCKET_TIMEOUT_S, 1.2 * self.options.sweep_gap_s)
        if self._unix_socket is not None:
            params["path"] = self._unix_socket.path
            for name in _TCP_ONLY:
                params.pop(name, None)
        return params

    def _prepare_virtual_host(self, vhost: Any) -> Any:
        return self._unix_socket.database if self._unix_socket is not None else super()._prepare_virtual_host(vhost)

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous)
        INHERITED.watch_pool(pool)
        return pool

    def own_pool(self) -> Pool:
        """A pool that outlives this channel."""
        pool: Pool = self._get_pool()
        return pool

    @property
    def wire(self) -> CommandConnection:
        """Our own connection for publishing and administration."""
        if self._commands is None:
            self._commands = CommandConnection(self.pool)
        return self._commands

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """kombu makes a client for each command; one is enough."""
        if client is None:
            client = self.__dict__.get("_shared_client")
            if client is None:
                client = self._shared_client = self._create_client()
        with as_unavailable():
            yield client

    def _disconnect_pools(self) -> None:
        self._commands = None
        self.__dict__.pop("_shared_client", None)
        super()._disconnect_pools()

    # -- publishing

    def step(self, priority: int) -> str:
        """The step of a mailbox that a priority belongs to."""
        return str(self.priority(priority))

    def step_of(self, message: Mapping[str, Any]) -> str:
        """The step of its mailbox that a message's priority puts it in."""
        return self.step(self._get_message_priority(message, reverse=False))

    def accept(self, queue: str, step: str, message: str, said: Hashable, batch: PublishBatch | None = None) -> None:
        """Put a message, as it will lie in Redis, into one step of a mailbox; with ``batch``, when that is sent.

        Who publishes again what was ``said``, because the answer was lost, adds no second message.

        Raises:
            redis.exceptions.RedisError: Redis is away, or refused it.
            MailboxFull, CircuitOpen: flow control stopped it.
            MessageTooLarge: it is larger than it may be.
        """
        if len(message) > self.largest_bytes:
            self.too_large(queue, len(message))
        if queue in self._expires:
            # A message put into it is a use of it, so it lives on for that long.
            (self.wire.run if batch is None else batch.run)(*self._declaration(queue))
        keys = self._publish_keys.get((queue, step))
        if keys is None:
            keys = self._publish_keys[queue, step] = [self.keys.step(queue, step), self.keys.ledger(queue)]
        limit = self._max_length.get(queue, 0)
        if batch is not None:
            batch.run("publish", keys, [limit, "", message])
            return

        reply = self._once(said, "publish", keys, [limit], [message])
        if type(reply) is list:
            retry_until_room(queue, reply, 1, lambda _: self._once(said, "publish", keys, [limit], [message]))

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

    def _once(self, said: Hashable, script: str, keys: list[str], before: list[Any], after: list[Any]) -> Any:
        """Run a script that publishes what is ``said``, so that it is there once however often the answer is lost.

        The hash of last publishes is its last key, the token stands between the two parts of the arguments.
        """
        attempt = _unanswered.attempt(said, self.keys, self.wire.name)
        try:
            return self.wire.run(script, [*keys, attempt.key], [*before, attempt.token, *after])
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
        body = _encode(message)
        once = idempotency_key_of(message)
        step = self.step_of(message)
        said = queue, headers.get("id") or message["body"], headers.get("retries")
        if delay_ms <= 0 and once is None:
            self.accept(queue, step, body, said, batch)
            return
        if len(body) > self.largest_bytes:
            self.too_large(queue, len(body))
        run = self.wire.run if batch is None else batch.run
        k, expires_ms = self.keys, self._expires.get(queue, 0)
        if expires_ms:
            run(*self._declaration(queue))
        call: Call
        if once is not None:
            call = once.call(k, queue, step, message, body, delay_ms)
        else:
            call = (
                "delay",
                [k.delayed(queue), k.delayed_bodies(queue), k.step(queue, DOORBELL), k.ledger(queue)],
                [f"{step}|{os.urandom(12).hex()}", body, delay_ms, expires_ms],
            )
        if batch is not None:
            batch.run(*call)
            return
        script, keys, args = call
        reply = self._once(said, script, keys, args, [])
        if type(reply) is list:
            retry_until_room(queue, reply, 1, lambda _: self._once(said, script, keys, args, []))

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> Any:
        found = super()._lookup(exchange, routing_key, default)
        self._unrouted = not found
        return found

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish; a task message that no binding leads anywhere becomes a dead letter, where kombu loses it."""
        if self._collects is not None and "_publish_batch" not in kwargs:
            return self._collects.publish(message, exchange=exchange, routing_key=routing_key, **kwargs)
        if not exchange:
            # To a mailbox by its name, as Celery does; nothing is to be looked up.
            self._inplace_augment_message(message, exchange, routing_key)
            return self._put(routing_key, message, **kwargs)
        self._unrouted = False
        result = super().basic_publish(message, exchange, routing_key, **kwargs)
        if self._unrouted and "task" in (message.get("headers") or {}):
            self._bury_unroutable(message, exchange, routing_key)
        return result

    def _bury_unroutable(self, message: dict[str, Any], exchange: str, routing_key: str) -> None:
        text = f"no queue is bound to exchange {exchange!r} with routing key {routing_key!r}"
        letter = {
            "queue": routing_key,
            "reason": Reason.UNROUTABLE.value,
            "error": {"type": "Unroutable", "message": text},
            "attempts": 0,
            "at": to_ms(time.time()),
        }
        headers = message["headers"]
        said = exchange, routing_key, headers.get("id"), headers.get("retries")
        args = [self.keys.root, routing_key, _encode(message), json.dumps(letter), letter["reason"], "Unroutable"]
        self._once(said, "bury_unsent", [self.keys.ledger(routing_key)], args, [text])
        emit(
            events.BURIED,
            agent="",
            message=str(headers["task"]),
            id=str(headers.get("id", "")),
            reason=Reason.UNROUTABLE.value,
            error=text,
            attempts=0,
        )

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

    # -- queues

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        if queue in self._fanout_queues:
            return
        limit = (kwargs.get("arguments") or {}).get("x-max-length")
        if isinstance(limit, int) and limit > 0:
            self._max_length[queue] = limit
        if queue in self._expires or auto_delete:
            self._reply_queues.add(queue)
        else:
            self.wire.run("declare", [self.keys.queues], [queue, "1", GROUP, 0])

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except ResponseError as error:
            if not is_full(error):
                raise
            # A worker must be able to start on a full server, or it could never be emptied.
            logger.warning("binding of %s to %s not recorded: %s", queue, exchange, error)

    def _streams(self, queue: str, *, bell: bool = False) -> list[str]:
        steps = (*self.steps, DOORBELL) if bell else self.steps
        return [self.keys.step(queue, step) for step in steps]

    def _make_streams(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self.wire.run(*self._declaration(queue))

    def _declaration(self, queue: str) -> tuple[str, list[str], list[Any]]:
        """The script call that makes a mailbox' streams and, if it expires, begins its time anew."""
        listed = "0" if queue in self._reply_queues else "1"
        keys = [self.keys.queues, *self._streams(queue, bell=True)]
        return "declare", keys, [queue, listed, GROUP, self._expires.get(queue, 0)]

    def _size(self, queue: str) -> int:
        total = int(self.wire.call("ZCARD", self.keys.delayed(queue)))
        for stream in self._streams(queue):
            total += int(self.wire.call("XLEN", stream))
            try:
                total -= int(self.wire.call("XPENDING", stream, GROUP)[0])
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
        return total

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return bool(self.wire.call("EXISTS", *self._streams(queue), self.keys.delayed(queue)))

    def _purge(self, queue: str) -> int:
        """Drop what is there now and nobody holds; of what comes meanwhile, nothing beyond that number."""
        k = self.keys
        mailbox = [k.ledger(queue), k.delayed(queue), k.delayed_bodies(queue)]
        args = [k.root, to_ms(self.options.outcome_ttl_s)]

        def drop(stream: str, most: int) -> int:
            return int(self.wire.run("purge", [*mailbox, stream] if stream else mailbox, [GROUP, most, *args]))

        return self._drop_all(queue, drop)

    def _drop_all(self, queue: str, drop: Callable[[str, int], int]) -> int:
        """Drop as many messages as there are now, first those not yet due, some at a time; returns how many.

        It ends though others publish faster. ``drop`` drops from a stream ('': of what is not yet due) at most so many.
        """
        total = 0
        for stream in ("", *self._streams(queue)):
            # Once it is due, a message is in a stream, which is looked at after this.
            counted = ("XLEN", stream) if stream else ("ZCARD", self.keys.delayed(queue))
            left = int(self.wire.call(*counted))
            while left > 0 and (dropped := drop(stream, min(left, _DROP_BATCH))):
                left -= dropped
                total += dropped
        return total

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        try:
            super()._delete(queue, exchange, routing_key, pattern, *args, **kwargs)
        except (RedisError, OSError):
            if not self._closing:
                raise
            # Raised, it would leave this channel and all the connection's others half open.
            logger.debug("binding of %s to %s not removed", queue, exchange, exc_info=True)
        if queue not in self._fanout_queues:
            self._delete_mailbox(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> Any:
        """Delete a queue. kombu does nothing for one that this process has not declared."""
        known = queue in self.state.queue_index
        result = super().queue_delete(queue, if_unused=if_unused, if_empty=if_empty, **kwargs)
        if not known and queue not in self._fanout_queues and not (if_empty and self._size(queue)):
            self._delete_mailbox(queue)
        return result

    def _delete_mailbox(self, queue: str) -> None:
        """Drop what is there now, and forget the mailbox; if others go on publishing, it stays with what came since."""
        k, streams = self.keys, self._streams(queue)
        keys = [k.ledger(queue), k.queues, k.delayed(queue), k.delayed_bodies(queue), k.step(queue, DOORBELL), *streams]
        reply = "1" if queue in self._reply_queues else "0"
        told = [k.root, to_ms(self.options.outcome_ttl_s)]

        def drop(stream: str, most: int) -> int:
            number = streams.index(stream) + 1 if stream else 0
            return int(self.wire.run("delete", keys, [queue, reply, GROUP, most, *told, number]))

        self._drop_all(queue, drop)
        # An empty mailbox goes too.
        drop("", 0)


def _delay_ms(headers: Mapping[str, Any]) -> int:
    """How long until the message is due, by the clock of the sender who set its ``eta``.

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
