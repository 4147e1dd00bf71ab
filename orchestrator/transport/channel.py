"""The kombu channel: reads messages from their streams and hands them to consumers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from hiredis import pack_command
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from orchestrator.core.log import get_logger
from orchestrator.transport.claim_choice import ClaimChoice
from orchestrator.transport.claim_intake import ClaimIntake
from orchestrator.transport.delivered_message import DeliveredMessage
from orchestrator.transport.delivery import Delivery
from orchestrator.transport.liveness.incarnation import Incarnation
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.mailbox_entry import MalformedEntry, decode
from orchestrator.transport.publishing import PublishingChannel
from orchestrator.transport.qos import QoS
from orchestrator.transport.reader import Reader
from orchestrator.transport.reading_stop import requeue_unread, stop_reading
from orchestrator.transport.redis.broken_keys import attach_command
from orchestrator.transport.redis.refusals import is_unreadable, is_wrong_type
from orchestrator.transport.redis.scripts import source
from orchestrator.transport.settling.settler import Settler
from orchestrator.transport.unreadable_mailboxes import UnreadableMailboxes

logger = get_logger(__name__)

#: Pause before a worker connects again after a key was of another type: somebody has to move it away.
_BROKEN_KEY_PAUSE_S: Final = 1.0


class Channel(PublishingChannel):
    """kombu's channel on streams. What it claims, how claims are taken in, delivered and settled is in its parts."""

    QoS = QoS
    Message = DeliveredMessage

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.delivery = Delivery(self, lambda stalled: self._intake.requeue_stalled(stalled))
        #: Queues consumed from without acknowledging.
        self.no_ack_queues: set[str] = set()
        self._fenced = False
        #: The socket on which the last claim was sent.
        self._claimed_on: Any = None
        self._kept_alive_at = float("-inf")
        #: Since when a reply of Redis has been expected that is not taken in yet.
        self._expecting_since: float | None = None
        self.claim_choice = ClaimChoice(self)
        self.unreadable = UnreadableMailboxes(self.describe_unreadable)
        super().__init__(*args, **kwargs)
        self.reader = Reader(self.keys, self.levels, self.options)
        self._intake = ClaimIntake(self)
        self.settler = Settler(self.keys, self.options, lambda: self.wire, self._on_settled)

    def _on_settled(self, tag: str) -> None:
        if self._qos is not None:
            self._qos.settled(tag)

    # -- consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        """Start consuming. The first consumer that acknowledges has this process register an incarnation."""
        if queue not in self._fanout_queues:
            with self.waiting_for_keys():
                self._make_streams([queue])
            if no_ack:
                self.no_ack_queues.add(queue)
            else:
                self.no_ack_queues.discard(queue)
                with self.waiting_for_keys():
                    self._hold(queue)
        self.reader.is_empty = False
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
            # An error raised here would end the connection, and requeue what was not started.
            logger.warning("malformed message on %s ignored: %r (%s)", exchange, str(message)[:200], error)
            return False
        return bool(super()._deliver_fanout_message(message, exchange))

    def _hold(self, queue: str) -> None:
        holder = self.settler.holder
        if holder is None:
            broker = self.connection.broker
            holder = PROCESS_INCARNATIONS.get(
                f"{broker.name}|{self.keys.root}",
                lambda: Incarnation(self.own_pool(), self.keys, self.options, self.levels, broker),
            )
            self.settler.holder = holder
        holder.attach(self, queue)

    @property
    def incarnation(self) -> str:
        """The consumer's name in Redis."""
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

    # -- reading: kombu's poller calls these two, by the names of its own transport's command

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for messages; called when nothing is being asked for and the prefetch limit allows more."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        holder = self.settler.holder
        if holder is not None:
            holder.polled()
            if connection._sock is not self._claimed_on:
                # A claim sent on the last connection may have been served, and its reply lost.
                holder.requeue_unreceived(0, reader=self)
                self._claimed_on = connection._sock
        self._in_poll = connection
        self._expecting_since = self._brpop_sent_at = monotonic()
        # redis-py's own packer looks at each argument first.
        connection.send_packed_command((pack_command(self.claim_choice.next_command(queues)),), check_health=False)

    def _brpop_read(self, **options: Any) -> bool:
        """Read the reply, and deliver what it brought."""
        self.check_not_fenced()
        connection = self.client.connection
        try:
            reply = self._read_reply(connection)
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._intake.take_in(reply)
        self._expecting_since = None
        if not self.delivery.buffer:
            raise kombu_redis.Empty
        self.delivery.deliver_buffered()
        return True

    def _read_reply(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except self.connection_errors:
            connection.disconnect()
            raise
        except NoScriptError:
            self.wire.call("SCRIPT", "LOAD", source("claim"))
            return None
        except ResponseError as error:
            if is_unreadable(error) and self._pass_over_unreadable(str(error)):
                return None
            if not any(word in str(error) for word in ("NOGROUP", "UNBLOCKED")):
                # A server that refuses for a while (failover, disk full, too few replicas), or a key of another type.
                # After a connection error, Celery connects again, with a pause.
                connection.disconnect()
                if is_wrong_type(error):
                    attach_command(error, [self.keys.flow(queue) for queue in self.active_queues])
                    threading.Event().wait(_BROKEN_KEY_PAUSE_S)
                raise self.named_refusal(error) from error
            # A stream was deleted, or the database flushed.
            self._make_streams(self.active_queues)
            self.reader.is_empty = False
            return None

    def _pass_over_unreadable(self, why: str) -> bool:
        """Go on without the mailboxes that Redis' error is about; returns whether that is possible."""
        claimed_from = self.reader.claimed_from
        if self.reader.slept:
            found = {queue: fault for queue in self.active_queues if (fault := self._unreadable(queue))}
        else:
            found = dict.fromkeys(claimed_from, why) if len(claimed_from) == 1 else {}
        self.unreadable.found(found)
        self.reader.is_empty = False
        if claimed_from and not found:
            self.unreadable.suspect(claimed_from)
        if claimed_from:
            # What the script had claimed before the error has no reply.
            with contextlib.suppress(ResponseError):
                requeue_unread(self)
        return bool(found or claimed_from)

    def describe_unreadable(self, queue: str, why: str) -> str:
        """Redis' error about a mailbox as a text that names the key, if its type is what is wrong."""
        error = ResponseError(why)
        attach_command(error, [self.keys.flow(queue), *self._read_and_deferred(queue)])
        return str(self.named_refusal(error))

    def overdue_s(self) -> float | None:
        """For how many seconds a reply of Redis is overdue; ``None`` if none is, or there is something to read."""
        connection = self._in_poll
        if not connection or self._brpop_sent_at is None:
            return None
        waited_s = monotonic() - self._brpop_sent_at
        if waited_s < self.options.block_s + connection.socket_timeout or connection._sock is None:
            return None
        return None if kombu_redis._socket_readable(connection._sock) else waited_s

    # -- getting one message

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        if queue not in self.no_ack_queues:
            self._hold(queue)
        if queue in self._expires:
            # Being asked for messages is use.
            self._make_streams([queue])
        leased = self.settler.holder is not None
        command = self.reader.claim_command([queue], self.incarnation, 1, leased=leased)
        try:
            reply = self.wire.call(*command)
        except NoScriptError:
            self.wire.call("SCRIPT", "LOAD", source("claim"))
            reply = self.wire.call(*command)
        taken = self._intake.take_one(reply, queue)
        if taken is None:
            raise kombu_redis.Empty
        claim, raw = taken
        claim.delivered = True
        redelivered = claim.deaths > 0 or claim.came_back
        try:
            payload = decode(raw, tag=claim.tag, queue=queue, redelivered=redelivered)
        except MalformedEntry as error:
            self.delivery.dead_letter_malformed(claim, str(error))
            raise kombu_redis.Empty from None
        return payload

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Claim one message, without waiting; ``None`` if there is none."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.settler.settle(message.delivery_tag, "handled")
        return message

    # -- for the incarnation

    def on_fenced(self) -> None:
        """The incarnation was declared dead: end the connection, so that Celery connects again as another one.

        Called in the heartbeat's thread as well. What the event loop waits for may never come (a connection that only
        looks open); when it is closed, the loop wakes up.
        """
        self._fenced = True
        sock = getattr(self._in_poll, "_sock", None) if self._in_poll else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def check_not_fenced(self) -> None:
        """Refuse to go on once the incarnation was fenced.

        Raises:
            redis.exceptions.ConnectionError: it was.
        """
        if self._fenced:
            raise RedisConnectionError(f"{self.incarnation} was fenced")

    def wants_messages(self) -> bool:
        """Whether it consumes, and its prefetch limit allows more."""
        holder = self.settler.holder
        if holder is not None and holder.claims.isolation.is_wanted:
            return False
        return bool(self.active_queues) and self.qos.can_consume()

    def expecting_s(self) -> float | None:
        """For how long a reply of Redis has been expected, or has waited to be read; ``None`` if none is."""
        since = self._expecting_since
        return None if since is None else monotonic() - since

    # -- stopping

    def _stop_reading(self, *, for_good: bool = False) -> None:
        connection, self._in_poll = self._in_poll, None
        self._expecting_since = None
        stop_reading(self, connection, for_good=for_good)

    def close(self) -> None:
        """Stop consuming; messages not started are back in their queues before this returns."""
        if self.closed:
            return
        self._stop_reading(for_good=True)
        self.delivery.buffer.close()
        holder = self.settler.holder
        try:
            super().close()
        finally:
            if holder is not None:
                holder.detach(self)
