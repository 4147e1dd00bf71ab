"""The kombu channel: claims messages from their streams and delivers them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import DOORBELL, GROUP, RETURNED
from orchestrator.core.log import get_logger
from orchestrator.telemetry import emit, events
from orchestrator.transport.claim_ahead import ClaimAhead
from orchestrator.transport.claim_buffer import Buffered, ClaimBuffer
from orchestrator.transport.delivered_message import DeliveredMessage
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.incarnation import Incarnation
from orchestrator.transport.liveness.isolation import is_last_chance
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.liveness.worker_state import WORKER_STATE
from orchestrator.transport.mailbox_entry import MalformedEntry, decode, read_death_history, with_lineage
from orchestrator.transport.publishing import PublishingChannel
from orchestrator.transport.qos import QoS
from orchestrator.transport.redis.scripts import sha, source
from orchestrator.transport.settling.settler import Settler

logger = get_logger(__name__)

#: A solo pool runs tasks while we deliver; after this long the event loop gets its turn.
_SLICE_S = 0.05

# What was asked of Redis on the reading connection, hence what kind of answer comes.
_CLAIM, _SLEEP, _NUDGE = "claim", "sleep", "nudge"


class Channel(PublishingChannel):
    """The whole channel: it also claims messages, delivers them, and settles them."""

    QoS = QoS
    Message = DeliveredMessage

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._claimed = ClaimBuffer(self._requeue_stalled)
        self._claim_ahead: ClaimAhead | None = None
        #: A message that waits for this process to itself.
        self.isolated: tuple[Claim, bytes] | None = None
        self._one_by_one = False
        self._asked = ""
        self._asked_queues: Sequence[str] = ()
        self._asked_credit = 0
        self._empty = False
        self._due_ms = -1
        self._no_ack_queues: set[str] = set()
        self._fenced = False
        self._read_on: Any = None
        self._kept_alive_at = float("-inf")
        #: Since when Redis has been asked for what has not been taken in yet.
        self._expecting_since: float | None = None
        super().__init__(*args, **kwargs)
        self.settler = Settler(self.keys, self.options, lambda: self.wire, self._on_settled)
        if self.options.claim_ahead:
            self._claim_ahead = ClaimAhead(int(self.options.batch))

    def _on_settled(self, tag: str) -> None:
        if self._qos is not None:
            self._qos.settled(tag)

    # -- consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        """Start consuming. The first consumer that acknowledges makes this process a holder."""
        if queue not in self._fanout_queues:
            self._make_streams([queue])
            if no_ack:
                self._no_ack_queues.add(queue)
            else:
                self._no_ack_queues.discard(queue)
                self._hold(queue)
        self._empty = False
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue not in self._fanout_queues:
            self.connection._callbacks[queue] = self._receiver(no_ack, callback)
        return result

    def _receiver(self, no_ack: bool, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """As kombu's, but it also takes a message that is made already."""

        def receive(message: Any) -> Any:
            if type(message) is dict:
                message = self.Message(message, channel=self)
            if not no_ack:
                self.qos.append(message, message.delivery_tag)
            return callback(message)

        return receive

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        try:
            self.Message(message, channel=self)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Whoever raises from here begins anew with the broker, and gives back what it has not begun.
            logger.warning("no message, and ignored, on %s: %r (%s)", exchange, str(message)[:200], error)
            return False
        return bool(super()._deliver_fanout_message(message, exchange))

    def _hold(self, queue: str) -> None:
        holder = self.settler.holder
        if holder is None:
            broker = self.connection.broker
            holder = PROCESS_INCARNATIONS.get(
                f"{broker.name}|{self.keys.root}",
                lambda: Incarnation(self.own_pool(), self.keys, self.options, self.steps, broker),
            )
            self.settler.holder = holder
        holder.attach(self, queue)

    @property
    def incarnation(self) -> str:
        """The consumer that Redis knows us as."""
        return self.settler.holder.id if self.settler.holder is not None else f"reader:{id(self):x}"

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep alive what is consumed: the bindings, as kombu does, and the streams of queues that expire."""
        super().maybe_refresh_binding_expiry()
        expiring = [queue for queue in self.active_queues if queue in self._expires]
        if not expiring:
            return
        every_s = min(self._expires[queue] for queue in expiring) / 3000
        if monotonic() - self._kept_alive_at > every_s:
            self._kept_alive_at = monotonic()
            self._make_streams(expiring)

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
        if self.settler.holder is not None:
            self.settler.holder.polled()
            if connection._sock is not self._read_on:
                # A claim sent on the last connection may have been served with nobody to take the answer.
                self.settler.holder.requeue_unreceived(0, reader=self)
                self._read_on = connection._sock
        self._in_poll = connection
        self._expecting_since = monotonic()
        self._brpop_sent_at = monotonic()
        if self._claimed:
            self._asked = _NUDGE
            command: tuple[Any, ...] = ("PING",)
        elif self._empty:
            self._asked = _SLEEP
            self._drained()
            sleep_ms = to_ms(min(self.options.block_s, self.brpop_timeout or self.options.block_s))
            if self._due_ms >= 0:
                sleep_ms = max(1, min(sleep_ms, self._due_ms))
            streams = [s for queue in queues for s in self._streams(queue, bell=True)]
            command = (
                "XREADGROUP", "GROUP", GROUP, self.incarnation, "COUNT", 1, "BLOCK", sleep_ms,
                "STREAMS", *streams, *[">"] * len(streams),
            )  # fmt: skip
        else:
            self._asked, self._asked_queues = _CLAIM, queues
            self._drained()
            self._asked_credit, ahead = self._credit()
            command = self._claim_command(queues, self._asked_credit, ahead)
        connection.send_packed_command(connection.pack_command(*command), check_health=False)

    def _drained(self) -> None:
        if self._claim_ahead is not None:
            self._claim_ahead.drained(monotonic())

    def _requeue_stalled(self, stalled: list[Buffered]) -> None:
        """Give back what was claimed ahead and got no slot. Called in the buffer's thread."""
        if self._claim_ahead is not None:
            self._claim_ahead.stalled()
        self.settler.requeue([claim.tag for claim, _ in stalled])

    def _claim_command(self, queues: Sequence[str], credit: int, ahead: int = 0) -> tuple[Any, ...]:
        k = self.keys
        keys = [k.leases]
        for queue in queues:
            keys += [k.delayed(queue), k.delayed_bodies(queue), *self._streams(queue)]
        leased = "1" if self.settler.holder is not None else "0"
        return (
            "EVALSHA", sha("claim"), len(keys), *keys,
            GROUP, self.incarnation, leased, credit, ahead, *self.steps,
        )  # fmt: skip

    def overdue_s(self) -> float | None:
        """How long ago Redis was asked for messages, if it should have answered by now and nothing is there to read."""
        connection = self._in_poll
        if not connection or self._brpop_sent_at is None:
            return None
        waited_s = monotonic() - self._brpop_sent_at
        if waited_s < self.options.block_s + connection.socket_timeout or connection._sock is None:
            return None
        return None if kombu_redis._socket_readable(connection._sock) else waited_s

    def _credit(self) -> tuple[int, int]:
        """How many messages to claim: to be delivered now, and ahead of free slots."""
        if self._one_by_one:
            # Who comes back from a death rarely comes back alone: claim no more than is going to be kept.
            self._one_by_one = False
            return 1, 0
        room = self._room(int(self.options.batch))
        if self._claim_ahead is None or not self._may_claim_ahead():
            return room, 0
        return room, self._claim_ahead.count

    def _may_claim_ahead(self) -> bool:
        if self.settler.holder is None or "can_consume" in vars(self.qos) or WORKER_STATE.is_stopping():
            return False
        return self.qos.can_consume_max_estimate() is not None and not self._no_ack_queues

    def _room(self, most: int) -> int:
        """How many messages may be claimed now."""
        if self.settler.holder is None or "can_consume" in vars(self.qos):
            # Nobody would take back for us what we claimed and did not deliver; or Celery's ``worker_disable_prefetch``
            # has put its own question in place of ours: may one more be run?
            return 1
        left = self.qos.can_consume_max_estimate()
        return most if left is None else max(1, min(most, left))

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
                    # A server that refuses for a while (failover, disk full, too few replicas) is one to come back
                    # to; as a connection error, Celery does, after a pause.
                    connection.disconnect()
                    raise RedisConnectionError(str(error)) from error
                # Somebody deleted a stream, or flushed the database.
                self._make_streams(self.active_queues)
                self._empty = False
                reply = None
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._take_in(reply)
        self._expecting_since = None
        if not self._claimed:
            raise kombu_redis.Empty
        self._deliver_claimed()
        return True

    def _take_in(self, reply: Any) -> None:
        if self._asked == _CLAIM and reply is not None:
            taken = self._take_in_claimed(reply, self._asked_queues)
            for claim, _ in taken[self._asked_credit :]:
                claim.ahead = True
            self._claimed.extend(taken)
            self._note_claimed(len(taken))
            self._due_ms = int(reply[0])
            self._empty = len(reply) == 1
        elif self._asked == _SLEEP:
            self._empty = False
            self._take_in_read(reply)
            self._give_back_surplus()
            self._note_claimed(len(self._claimed))

    def _note_claimed(self, count: int) -> None:
        if self._claim_ahead is not None:
            self._claim_ahead.claimed(count, monotonic())

    def _take_in_claimed(self, reply: list[Any], queues: Sequence[str]) -> list[Buffered]:
        if reply[0] == -2:
            self.on_fenced()
            raise RedisConnectionError(f"{self.incarnation} was fenced")
        stride = len(self.steps) + 2
        taken = []
        for at in range(1, len(reply), 4):
            index, entry, raw, death_history = reply[at : at + 4]
            # Lua counts from 1, and the first key is the lease's.
            queue_number, place = divmod(index - 2, stride)
            queue = queues[queue_number]
            self._queue_cycle.rotate(queue)
            stream = self.keys.step(queue, self.steps[place - 2])
            taken.append(self._took(stream, queue, entry, raw, death_history))
        return taken

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
                raw = values.get(b"m", b"")
                death_history = b""
                if len(values) > 1:
                    undelivered = b"n" if b"n" in values else b""
                    death_history = b"%s%s %s" % (undelivered, values.get(b"u", b""), values.get(b"d", b""))
                    raw = with_lineage(raw, values.get(b"r", b""))
                self._claimed.extend([self._took(stream, queue, entry, raw, death_history)])

    def _give_back_surplus(self) -> None:
        """A sleeping read takes one of each step and queue, where there had been none just before."""
        if self.settler.holder is not None:
            room = self._room(len(self._claimed))
            surplus = self._claimed.pop_last(max(0, len(self._claimed) - room))
            self.settler.requeue([claim.tag for claim, _ in surplus])

    def _took(self, stream: str, queue: str, entry: bytes, raw: bytes, death_history: bytes) -> Buffered:
        entry_id = entry.decode()
        claim = Claim(f"{entry_id}@{stream}", entry_id, stream, queue, 0, size=len(raw))
        undelivered = death_history.startswith(b"n")
        claim.came_back = not undelivered and stream.startswith(f"{self.keys.root}q:{RETURNED}")
        death_history = death_history[1:] if undelivered else death_history
        if death_history:
            behind = read_death_history(death_history)
            claim.deaths = behind.deaths
            claim.death_list = death_history.partition(b" ")[2] if claim.deaths else b""
            claim.last_chance = is_last_chance(
                deaths=behind.counted, unattributed_deaths=behind.unattributed, max_deaths=int(self.options.max_deaths)
            )
        self.settler.took(claim)
        return claim, raw

    def deliver_next(self) -> bool:
        """Deliver one message that is here already, if there is one and the prefetch limit allows it."""
        if self.isolated is not None:
            return self.deliver_secluded()
        return bool(self._claimed) and self.qos.can_consume() and self._deliver_first()

    def _deliver_first(self) -> bool:
        if self._fenced:
            raise RedisConnectionError(f"{self.incarnation} was fenced")
        taken = self._claimed.pop()
        return taken is not None and self._deliver_or_seclude(*taken)

    def _deliver_or_seclude(self, claim: Claim, raw: bytes) -> bool:
        if not claim.last_chance or self.settler.holder is None or claim.queue in self._no_ack_queues:
            self._deliver(claim, raw)
            return True
        self.settler.requeue([behind.tag for behind, _ in self._claimed.pop_all()])
        self._one_by_one = True
        self.isolated = claim, raw
        return self.deliver_secluded()

    def deliver_secluded(self) -> bool:
        """Deliver the message that waits for this process to itself, if it has it now."""
        if self.isolated is None or self.settler.holder is None:
            return False
        if self._fenced:
            raise RedisConnectionError(f"{self.incarnation} was fenced")
        claim, raw = self.isolated
        if claim.tag in self.settler.holder.claims and not self.settler.holder.claims.mark_last_chance(claim):
            return False
        self.isolated = None
        if claim.tag not in self.settler.holder.claims:
            return False
        self._deliver(claim, raw)
        return True

    def can_deliver(self) -> bool:
        """Whether a message is here already, nothing is being asked of Redis, and a slot is free."""
        return bool(self._claimed) and not self._in_poll and bool(self.active_queues) and self.qos.can_consume()

    def deliver_buffered(self) -> None:
        """Deliver what is here already, as far as slots are free; it takes no round trip."""
        self._deliver_claimed()

    def _deliver_claimed(self) -> None:
        if self.connection.cycle.one_at_a_time:
            self.deliver_next()
            return
        began = monotonic()
        delivered = False
        while self._claimed:
            if delivered and (monotonic() - began > _SLICE_S or not self.qos.can_consume()):
                return
            delivered = True
            self._deliver_first()

    def _deliver(self, claim: Claim, raw: bytes) -> None:
        if claim.ahead and self.settler.holder is not None:
            claim.ahead = False
            self.settler.holder.claims.mark_delivered(claim)
        if self.connection is None or claim.queue not in self.connection._callbacks:
            # Cancelled while the message was on its way.
            self.settler.requeue([claim.tag])
            return
        redelivered = claim.deaths > 0 or claim.came_back
        try:
            payload = decode(raw, tag=claim.tag, queue=claim.queue, redelivered=redelivered)
            eta = _due_now(payload)
            message = self.Message(payload, channel=self)
            message.eta_waited = eta
        except MalformedEntry as error:
            self._bury_malformed(claim, str(error))
            return
        except (TypeError, ValueError, KeyError, AttributeError, LookupError) as error:
            self._bury_malformed(claim, f"{type(error).__name__}: {error}")
            return
        no_ack = claim.queue in self._no_ack_queues
        if no_ack and self.settler.holder is None:
            # It is its reader's now, or it was handed on because that had not read it for so long.
            if self.settler.settle_unheld(claim.tag):
                self.connection._callbacks[claim.queue](message)
            return
        self.connection._callbacks[claim.queue](message)
        if no_ack:
            self.settler.settle(claim.tag, "handled")

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        if queue not in self._no_ack_queues:
            self._hold(queue)
        if queue in self._expires:
            # Being asked for messages is use.
            self._make_streams([queue])
        asked = self._claim_command([queue], 1)
        try:
            reply = self.wire.call(*asked)
        except NoScriptError:
            self.wire.call("SCRIPT", "LOAD", source("claim"))
            reply = self.wire.call(*asked)
        taken = self._take_in_claimed(reply, [queue])
        if not taken:
            raise kombu_redis.Empty
        ((claim, raw),) = taken
        redelivered = claim.deaths > 0 or claim.came_back
        try:
            payload = decode(raw, tag=claim.tag, queue=queue, redelivered=redelivered)
        except MalformedEntry as error:
            self._bury_malformed(claim, str(error))
            raise kombu_redis.Empty from None
        return payload

    def _bury_malformed(self, claim: Claim, text: str) -> None:
        error = {"type": "MalformedEntry", "message": text}
        if self.settler.bury(claim.tag, {"reason": "malformed", "error": error}) is not None:
            # Nothing in it can be trusted to be its id, or what message it is.
            emit(
                events.BURIED,
                agent=claim.queue,
                message="",
                id="",
                reason="malformed",
                error=f"MalformedEntry: {text}",
                attempts=0,
            )

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Claim one message, without waiting; ``None`` if there is none."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.settler.settle(message.delivery_tag, "handled")
        return message

    # -- stopping

    def on_fenced(self) -> None:
        """The holder was declared dead: break off, so that Celery begins anew as another incarnation.

        Called in the heartbeat's thread as well. What the event loop waits for may never come (a connection that
        only looks open); closed under it, it wakes up.
        """
        self._fenced = True
        sock = getattr(self._in_poll, "_sock", None) if self._in_poll else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def wants_messages(self) -> bool:
        """Whether it consumes, and its prefetch limit allows more."""
        holder = self.settler.holder
        if holder is not None and holder.claims.isolation.is_wanted:
            return False
        return bool(self.active_queues) and self.qos.can_consume()

    def expecting_s(self) -> float | None:
        """For how long an answer of Redis has been on its way here, or has waited to be read; ``None`` if none is."""
        since = self._expecting_since
        return None if since is None else monotonic() - since

    def _stop_reading(self, *, for_good: bool = False) -> None:
        """Take back what is asked of Redis, so that no message is given to a reader that has stopped.

        ``for_good`` also gives back what was delivered and not started. All that goes back comes again in the order in
        which it does, so the oldest goes first.
        """
        connection, self._in_poll = self._in_poll, None
        if connection:
            try:
                connection.disconnect()
            except (RedisError, OSError):
                logger.debug("closing the reading connection failed", exc_info=True)
        if for_good and self._qos is not None:
            self._qos.restore_unacked_once()
        self._asked = ""
        self._expecting_since = None
        self._empty = False
        undelivered = self._claimed.pop_all()
        if self.isolated is not None:
            undelivered.insert(0, self.isolated)
            self.isolated = None
        self.settler.requeue_unstarted([claim.tag for claim, _ in undelivered])
        if connection and self.settler.holder is not None:
            try:
                # What was served before the connection closed, with nobody to take the answer.
                self.settler.holder.requeue_unreceived(0, reader=self)
            except (RedisError, OSError):
                logger.debug("what was not answered is found later", exc_info=True)
        if self.settler.holder is None and self._no_ack_queues:
            streams = [(stream, queue) for queue in self._no_ack_queues for stream in self._streams(queue)]
            try:
                self.settler.requeue_unread(self.incarnation, streams)
            except (RedisError, OSError):
                logger.debug("what was not read is handed on by a sweep", exc_info=True)

    def close(self) -> None:
        """Stop consuming; messages not started are back in their queues before this returns."""
        if self.closed:
            return
        self._stop_reading(for_good=True)
        self._claimed.close()
        holder = self.settler.holder
        try:
            super().close()
        finally:
            if holder is not None:
                holder.detach(self)


def _due_now(payload: Mapping[str, Any]) -> Any:
    """Redis has waited for the ``eta`` already; a worker whose clock is behind must not wait again. Returns it."""
    headers = payload["headers"]
    eta = headers.get("eta")
    if eta:
        headers["eta"] = None
    return eta
