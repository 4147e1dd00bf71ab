"""The kombu channel: publishes into streams, claims from them, settles what was claimed."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from time import monotonic
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import DOORBELL, GROUP, RETURNED, Keys
from orchestrator.transport.batch import PublishBatch
from orchestrator.transport.holder import HOLDERS, Claim, Holder
from orchestrator.transport.message import MalformedEntry, decode
from orchestrator.transport.options import Options
from orchestrator.transport.qos import QoS
from orchestrator.transport.scripts import sha, source
from orchestrator.transport.wire import Wire

logger = logging.getLogger(__name__)

#: A solo pool runs tasks while we deliver; after this long the event loop gets its turn.
_SLICE_S = 0.01

#: Patience with Redis where kombu's options set none: no wait without an end.
_SOCKET_TIMEOUT_S = 5.0

_PURGE_BATCH = 1000

# What was asked of Redis on the reading connection, hence what kind of answer comes.
_CLAIM, _SLEEP, _NUDGE = "claim", "sleep", "nudge"


class Channel(kombu_redis.Channel):
    """A channel on Redis streams. Fanout (events, remote control) stays as kombu has it."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._wire: Wire | None = None
        self._holder: Holder | None = None
        self._unheld: dict[str, Claim] = {}
        self._claimed: deque[tuple[Claim, bytes]] = deque()
        self._asked = ""
        self._empty = False
        self._due_ms = -1
        self._no_ack_queues: set[str] = set()
        self._max_length: dict[str, int] = {}
        self._reply_queues: set[str] = set()
        self._fenced = False
        self._reader = ""
        self._read_on: Any = None
        transport: Any = args[0] if args else kwargs["connection"]
        self.options = Options.from_transport_options(transport.client.transport_options)
        super().__init__(*args, **kwargs)
        self.keys = Keys(self.global_keyprefix)
        self.steps = (RETURNED, *(str(step) for step in self.priority_steps))
        self._reader = f"reader:{id(self):x}"

    # -- connections

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)
        for name in ("socket_timeout", "socket_connect_timeout"):
            if params.get(name) is None and (name == "socket_timeout" or "path" not in params):
                # Longer than a gap in the sweeps: a Redis that hangs must be known to have hung before the first
                # heartbeat gives up and closes its connection, which would look like a death.
                params[name] = max(_SOCKET_TIMEOUT_S, 1.2 * self.options.sweep_gap_s)
        return params

    @property
    def wire(self) -> Wire:
        """Our own connection for publishing and administration."""
        if self._wire is None:
            self._wire = Wire(self.pool)
        return self._wire

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """kombu makes a client for each command; one is enough."""
        if client is None:
            client = self.__dict__.get("_shared_client")
            if client is None:
                client = self._shared_client = self._create_client()
        yield client

    def _disconnect_pools(self) -> None:
        self._wire = None
        self.__dict__.pop("_shared_client", None)
        super()._disconnect_pools()

    # -- publishing

    def _step(self, message: Mapping[str, Any]) -> str:
        return str(self.priority(self._get_message_priority(message, reverse=False)))

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch: PublishBatch | None = kwargs.get("_publish_batch")
        delay_ms = _delay_ms(message)
        body = dumps(message)
        run = self.wire.run if batch is None else batch.run
        if delay_ms > 0:
            k = self.keys
            member = f"{self._step(message)}|{message['properties']['delivery_tag']}"
            run(
                "delay",
                [k.delayed(queue), k.delayed_bodies(queue), k.step(queue, DOORBELL), k.ledger(queue)],
                [member, body, delay_ms],
            )
            return
        run(
            "publish",
            [self.keys.step(queue, self._step(message)), self.keys.ledger(queue)],
            [self._max_length.get(queue, 0), GROUP, body],
        )

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """A pipeline for ``kombu.Producer.batch()``."""
        return PublishBatch(self, max_size)

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
            if not any(word in str(error) for word in ("OOM", "maxmemory")):
                raise
            # A worker must be able to start on a full server, or it could never be emptied.
            logger.warning("binding of %s to %s not recorded: %s", queue, exchange, error)

    def _streams(self, queue: str, *, bell: bool = False) -> list[str]:
        steps = (*self.steps, DOORBELL) if bell else self.steps
        return [self.keys.step(queue, step) for step in steps]

    def _make_streams(self, queues: Iterable[str]) -> None:
        for queue in queues:
            listed = "0" if queue in self._reply_queues else "1"
            keys = [self.keys.queues, *self._streams(queue, bell=True)]
            self.wire.run("declare", keys, [queue, listed, GROUP, self._expires.get(queue, 0)])

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
        k = self.keys
        keys = [k.ledger(queue), k.delayed(queue), k.delayed_bodies(queue), *self._streams(queue)]
        args = [GROUP, _PURGE_BATCH, k.root, to_ms(self.options.outcome_ttl_s)]
        total = 0
        while dropped := int(self.wire.run("purge", keys, args)):
            total += dropped
        return total

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, exchange, routing_key, pattern, *args, **kwargs)
        if queue in self._fanout_queues:
            return
        k = self.keys
        self.wire.run(
            "delete",
            [
                k.ledger(queue),
                k.queues,
                k.delayed(queue),
                k.delayed_bodies(queue),
                k.step(queue, DOORBELL),
                *self._streams(queue),
            ],
            [queue, "1" if queue in self._reply_queues else "0"],
        )

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Start consuming. The first consumer that acknowledges makes this process a holder."""
        if queue not in self._fanout_queues:
            self._make_streams([queue])
            if no_ack:
                self._no_ack_queues.add(queue)
            else:
                self._no_ack_queues.discard(queue)
                self._hold(queue)
        self._empty = False
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _hold(self, queue: str) -> Holder:
        if self._holder is None:
            broker = f"{self.connection.client.as_uri(include_password=True)}|{self.keys.root}"
            self._holder = HOLDERS.get(broker, lambda: Holder(self._get_pool(), self.keys, self.options, self.steps))
        self._holder.attach(self, queue)
        return self._holder

    @property
    def incarnation(self) -> str:
        """The consumer that Redis knows us as."""
        return self._holder.id if self._holder is not None else self._reader

    @property
    def holder(self) -> Holder | None:
        """The incarnation on whose behalf this channel consumes, once it does."""
        return self._holder

    def _basic_cancel(self, consumer_tag: str) -> Any:
        result = super()._basic_cancel(consumer_tag)
        if not self.active_queues:
            self._stop_reading()
        return result

    def _brpop_start(self, timeout: float | None = None) -> None:
        # Called by kombu's poller when nothing is asked for and the prefetch limit allows more.
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        if self._holder is not None:
            self._holder.polled()
            if connection._sock is not self._read_on:
                # A claim sent on the last connection may have been served with nobody to take the answer.
                self._holder.take_back_unanswered(0)
                self._read_on = connection._sock
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        if self._claimed:
            self._asked = _NUDGE
            command: tuple[Any, ...] = ("PING",)
        elif self._empty:
            self._asked = _SLEEP
            sleep_ms = to_ms(min(self.options.block_s, self.brpop_timeout or self.options.block_s))
            if self._due_ms >= 0:
                sleep_ms = max(1, min(sleep_ms, self._due_ms))
            streams = [s for queue in queues for s in self._streams(queue, bell=True)]
            command = (
                "XREADGROUP", "GROUP", GROUP, self.incarnation, "COUNT", 1, "BLOCK", sleep_ms,
                "STREAMS", *streams, *[">"] * len(streams),
            )  # fmt: skip
        else:
            self._asked = _CLAIM
            command = self._claim_command(queues, self._credit())
        connection.send_packed_command(connection.pack_command(*command), check_health=False)

    def _claim_command(self, queues: Sequence[str], credit: int) -> tuple[Any, ...]:
        k = self.keys
        keys = [k.leases]
        for queue in queues:
            keys += [k.delayed(queue), k.delayed_bodies(queue), *self._streams(queue)]
        self._asked_queues = queues
        leased = "1" if self._holder is not None else "0"
        return (
            "EVALSHA", sha("claim"), len(keys), *keys,
            GROUP, self.incarnation, leased, credit, *self.steps,
        )  # fmt: skip

    def _credit(self) -> int:
        batch = int(self.options.batch)
        left = self.qos.can_consume_max_estimate()
        return batch if left is None else max(1, min(batch, left))

    def _brpop_read(self, **options: Any) -> bool:
        if self._fenced:
            raise RedisConnectionError(f"{self.incarnation} was fenced")
        connection = self.client.connection
        try:
            try:
                reply = connection.read_response()
            except self.connection_errors:
                connection.disconnect()
                raise
            except NoScriptError:
                self.wire.call("SCRIPT", "LOAD", source("claim"))
                reply = None
            except ResponseError as error:
                if not any(word in str(error) for word in ("NOGROUP", "UNBLOCKED")):
                    raise
                # Somebody deleted a stream, or flushed the database.
                self._make_streams(self.active_queues)
                self._empty = False
                reply = None
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._take_in(reply)
        if not self._claimed:
            raise kombu_redis.Empty
        self._deliver_claimed()
        return True

    def _take_in(self, reply: Any) -> None:
        if self._asked == _CLAIM and reply is not None:
            if reply[0] == -2:
                self.on_fenced()
                raise RedisConnectionError(f"{self.incarnation} was fenced")
            self._due_ms = int(reply[0])
            self._empty = len(reply) == 1
            self._take_in_claimed(reply)
        elif self._asked == _SLEEP:
            self._empty = False
            self._take_in_read(reply)

    def _take_in_claimed(self, reply: list[Any]) -> None:
        stride = len(self.steps) + 2
        for at in range(1, len(reply), 4):
            index, entry, raw, deaths = reply[at : at + 4]
            # Lua counts from 1, and the first key is the lease's.
            queue_number, place = divmod(index - 2, stride)
            queue = self._asked_queues[queue_number]
            self._queue_cycle.rotate(queue)
            stream = self.keys.step(queue, self.steps[place - 2])
            self._took(stream, queue, entry, raw, deaths)

    def _take_in_read(self, reply: Any) -> None:
        # RESP3 answers with a mapping, RESP2 with pairs.
        pairs = reply.items() if isinstance(reply, dict) else reply or ()
        for raw_stream, entries in pairs:
            stream = raw_stream.decode()
            step, queue = stream.removeprefix(f"{self.keys.root}q:").split(":", 1)
            if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], list):
                entries = entries[0]
            for entry, flat in entries:
                if step == DOORBELL:
                    self.wire.call("XACK", stream, GROUP, entry)
                    self.wire.call("XDEL", stream, entry)
                    continue
                values = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
                self._took(stream, queue, entry, values.get(b"m", b""), values.get(b"d", b""))

    def _took(self, stream: str, queue: str, entry: bytes, raw: bytes, deaths: bytes) -> None:
        entry_id = entry.decode()
        claim = Claim(f"{entry_id}@{stream}", entry_id, stream, queue, len(json.loads(deaths)) if deaths else 0)
        if self._holder is not None:
            self._holder.claimed(claim)
        else:
            self._unheld[claim.tag] = claim
        self._claimed.append((claim, raw))

    def _deliver_claimed(self) -> None:
        began = monotonic()
        delivered = False
        while self._claimed:
            if delivered and (monotonic() - began > _SLICE_S or not self.qos.can_consume()):
                return
            claim, raw = self._claimed.popleft()
            delivered = True
            self._deliver(claim, raw)

    def _deliver(self, claim: Claim, raw: bytes) -> None:
        if self.connection is None or claim.queue not in self.connection._callbacks:
            # Cancelled while the message was on its way.
            self.give_back([claim.tag])
            return
        redelivered = claim.deaths > 0 or claim.stream == self.keys.step(claim.queue, RETURNED)
        try:
            payload = decode(raw, tag=claim.tag, queue=claim.queue, redelivered=redelivered)
            _due_now(payload)
            self.Message(payload, channel=self)
        except MalformedEntry as error:
            self.bury(claim.tag, {"reason": "malformed", "error": {"type": "MalformedEntry", "message": str(error)}})
            return
        except (TypeError, ValueError, KeyError, AttributeError, LookupError) as error:
            text = f"{type(error).__name__}: {error}"
            self.bury(claim.tag, {"reason": "malformed", "error": {"type": "MalformedEntry", "message": text}})
            return
        self.connection._deliver(payload, claim.queue)
        if claim.queue in self._no_ack_queues:
            self.settle(claim.tag, "handled")

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        if queue not in self._no_ack_queues:
            self._hold(queue)
        asked = self._claim_command([queue], 1)
        self._asked = _CLAIM
        try:
            reply = self.wire.call(*asked)
        except NoScriptError:
            self.wire.call("SCRIPT", "LOAD", source("claim"))
            reply = self.wire.call(*asked)
        self._take_in(reply)
        self._empty = False
        if not self._claimed:
            raise kombu_redis.Empty
        claim, raw = self._claimed.popleft()
        redelivered = claim.deaths > 0 or claim.stream == self.keys.step(queue, RETURNED)
        try:
            payload = decode(raw, tag=claim.tag, queue=queue, redelivered=redelivered)
        except MalformedEntry as error:
            self.bury(claim.tag, {"reason": "malformed", "error": {"type": "MalformedEntry", "message": str(error)}})
            raise kombu_redis.Empty from None
        return payload

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Claim one message, without waiting; ``None`` if there is none."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.settle(message.delivery_tag, "handled")
        return message

    # -- settling

    def settle(self, tag: str, outcome: str) -> None:
        """End a delivery with a mere count; settling twice is harmless."""
        if self._holder is not None:
            self._holder.settle(tag, outcome)
            return
        claim = self._unheld.pop(tag, None)
        if claim is not None:
            keys = [claim.stream, self.keys.ledger(claim.queue)]
            self.wire.run("settle", keys, [GROUP, outcome, claim.entry])

    def started(self, tag: str) -> None:
        """A pool has started on the message."""
        if self._holder is not None:
            self._holder.started(tag)

    def give_back(self, tags: Iterable[str], *, death: str = "") -> None:
        """Return messages to the head of their queue."""
        if self._holder is not None:
            self._holder.give_back(tags, death=death)

    def give_back_unstarted(self, tags: Iterable[str]) -> None:
        """Return those of the messages that no pool has started."""
        if self._holder is not None:
            held = self._holder.held
            idle = [tag for tag in tags if tag in held and held[tag].started_at is None]
            self._holder.give_back(idle)

    def bury(
        self, tag: str, letter: Mapping[str, Any], outcome: Mapping[str, Any] | None = None, delivery: str = ""
    ) -> None:
        """End a delivery as a dead letter.

        ``letter`` says why; ``outcome`` is what waiters for ``delivery`` are told.
        """
        claim = self._holder.take(tag) if self._holder is not None else self._unheld.pop(tag, None)
        if claim is None:
            return
        self._qos_settled(tag)
        k = self.keys
        keys = [claim.stream, k.ledger(claim.queue), k.dead_letters, k.outcome(delivery) if delivery else ""]
        full = {"queue": claim.queue, "by": self.incarnation, "at": _now_ms(), **letter}
        args = [
            GROUP,
            claim.entry,
            json.dumps(full),
            json.dumps(outcome or {"outcome": "dead"})[:-1],
            to_ms(self.options.outcome_ttl_s),
        ]
        if self._holder is not None:
            self._holder.outbox.post("bury", keys, args)
        else:
            self.wire.run("bury", keys, args)

    def conclude(self, tag: str, counter: str, outcome: Mapping[str, Any], delivery: str) -> None:
        """End a delivery and record its outcome for whoever waits for it."""
        claim = self._holder.take(tag) if self._holder is not None else None
        if claim is None or self._holder is None:
            return
        self._qos_settled(tag)
        k = self.keys
        self._holder.outbox.post(
            "conclude",
            [claim.stream, k.ledger(claim.queue), k.outcome(delivery)],
            [GROUP, claim.entry, counter, json.dumps(outcome), to_ms(self.options.outcome_ttl_s)],
        )

    def retry_later(self, tag: str, payload: Mapping[str, Any], pause_s: float) -> None:
        """End an attempt and schedule the next, which is ``payload``, in one step."""
        claim = self._holder.take(tag) if self._holder is not None else None
        if claim is None or self._holder is None:
            return
        self._qos_settled(tag)
        k, queue = self.keys, claim.queue
        self._holder.outbox.post(
            "retry",
            [claim.stream, k.ledger(queue), k.delayed(queue), k.delayed_bodies(queue), k.step(queue, DOORBELL)],
            [
                GROUP,
                claim.entry,
                f"{self._step(payload)}|{self._next_delivery_tag()}",
                dumps(payload),
                to_ms(pause_s),
            ],
        )

    def _qos_settled(self, tag: str) -> None:
        if self._qos is not None:
            self._qos.settled(tag)

    # -- stopping

    def on_fenced(self) -> None:
        """The holder was declared dead: break off, so that Celery begins anew as another incarnation."""
        self._fenced = True

    def _stop_reading(self) -> None:
        """Take back what is asked of Redis, so that no message is given to a reader that has stopped."""
        connection = self._in_poll
        if connection:
            self._in_poll = None
            try:
                # Whatever was served before the connection closed is in our pending list, and goes back.
                connection.disconnect()
            except (RedisError, OSError):
                logger.debug("closing the reading connection failed", exc_info=True)
        self._asked = ""
        self._empty = False
        self.give_back_unstarted([claim.tag for claim, _ in self._claimed])
        self._claimed.clear()

    def close(self) -> None:
        """Stop consuming; messages not started are back in their queues before this returns."""
        if self.closed:
            return
        self._stop_reading()
        if self._qos is not None:
            self._qos.restore_unacked_once()
        holder, self._leaving = self._holder, True
        super().close()
        if holder is not None:
            holder.detach(self)


def _now_ms() -> int:
    return to_ms(datetime.now(timezone.utc).timestamp())  # noqa: UP017


def _delay_ms(message: Mapping[str, Any]) -> int:
    """How long until the message is due, by the clock of the sender who set its ``eta``.

    Only the difference goes to Redis, so clocks that disagree do no harm.
    """
    eta = (message.get("headers") or {}).get("eta")
    if not eta or not isinstance(eta, str):
        return 0
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return 0
    if due.tzinfo is None:
        due = due.replace(tzinfo=timezone.utc)  # noqa: UP017
    return to_ms((due - datetime.now(timezone.utc)).total_seconds())  # noqa: UP017


def _due_now(payload: Mapping[str, Any]) -> None:
    """Redis has waited for the ``eta`` already; a worker whose clock is behind must not wait again."""
    headers = payload["headers"]
    if headers.get("eta"):
        headers["eta_waited"], headers["eta"] = headers["eta"], None
