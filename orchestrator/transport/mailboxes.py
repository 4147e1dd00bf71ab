"""The channel's mailboxes: the streams of its queues are declared, measured, purged and deleted here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kombu.transport.virtual.base import queue_declare_ok_t
from redis.exceptions import RedisError, ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import DOORBELL, GROUP
from orchestrator.core.log import get_logger
from orchestrator.transport.connected_channel import ConnectedChannel
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.refusals import is_full, is_wrong_type

logger = get_logger(__name__)

#: Messages that one script drops: each is decoded, and its outcome recorded.
_DROP_BATCH = 100


def is_control_reply(queue: str) -> bool:
    """Whether a queue is for the replies to one remote control command; kombu names it so."""
    return queue.endswith(".pidbox") and ".reply." in queue


class MailboxChannel(ConnectedChannel):
    """A channel that keeps queues as mailboxes in Redis streams. Fanout (events, remote control) stays as in kombu."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: ``x-max-length`` of the queues that have one.
        self._max_length: dict[str, int] = {}
        self._reply_queues: set[str] = set()
        super().__init__(*args, **kwargs)

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        if queue in self._fanout_queues:
            return
        limit = (kwargs.get("arguments") or {}).get("x-max-length")
        if isinstance(limit, int) and limit > 0:
            self._max_length[queue] = limit
        if queue in self._expires or auto_delete:
            self._reply_queues.add(queue)
            if is_control_reply(queue):
                # A reply may be there before it is waited for, and is dropped if there is nothing to put it in.
                self._make_streams([queue])
        else:
            self.wire.run(*commands.declare(self.keys, queue))

    def queue_declare(self, queue: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As kombu's. A worker outlives a key of another type, and starts beside a mailbox with such a key."""
        with self.waiting_for_keys():
            try:
                return super().queue_declare(queue, *args, **kwargs)
            except ResponseError as error:
                if not queue or not is_wrong_type(error) or not self._unreadable(queue):
                    raise
                return queue_declare_ok_t(queue, 0, 0)

    def _unreadable(self, queue: str) -> str:
        """Redis' error about a key of a mailbox that is of another type; empty if there is none."""
        streams = [("XLEN", stream) for stream in (*self._read_and_deferred(queue), self.keys.stream(queue, DOORBELL))]
        for command, key in (("ZCARD", self.keys.delayed(queue)), *streams):
            try:
                self.wire.call(command, key)
            except ResponseError as error:
                if not is_wrong_type(error):
                    raise
                return str(error)
        return ""

    def queue_bind(self, *args: Any, **kwargs: Any) -> Any:
        """As kombu's. A worker outlives an exchange that is a key of another type."""
        with self.waiting_for_keys():
            return super().queue_bind(*args, **kwargs)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except ResponseError as error:
            if not is_full(error):
                raise
            # A worker must be able to start on a full server: only workers empty it.
            logger.warning(
                "binding of queue %s to exchange %s not recorded: Redis is full (%s)", queue, exchange, error
            )

    def _streams(self, queue: str, *, bell: bool = False) -> list[str]:
        levels = (*self.levels, DOORBELL) if bell else self.levels
        return [self.keys.stream(queue, level) for level in levels]

    def _read_and_deferred(self, queue: str) -> list[str]:
        """All streams that can have messages; first those from which messages go to others, deferred and in lanes."""
        return [self.keys.deferred(queue), self.keys.lanes(queue), *self._streams(queue)]

    def _make_streams(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self.wire.run(*self._declaration(queue))

    def _declaration(self, queue: str) -> commands.Call:
        """The script call that makes a mailbox's streams and, if it expires, starts its time again."""
        return commands.declare(
            self.keys,
            queue,
            self._streams(queue, bell=True),
            listed=queue not in self._reply_queues,
            ttl_ms=self._expires.get(queue, 0),
        )

    def _size(self, queue: str) -> int:
        total = int(self.wire.call("ZCARD", self.keys.delayed(queue)))
        for stream in self._read_and_deferred(queue):
            total += int(self.wire.call("XLEN", stream))
            try:
                total -= int(self.wire.call("XPENDING", stream, GROUP)[0])
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
        return total

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return bool(self.wire.call("EXISTS", *self._read_and_deferred(queue), self.keys.delayed(queue)))

    def _purge(self, queue: str) -> int:
        """Drop what waits; at most as many messages as there were at the beginning. Held messages stay."""
        ttl_ms = to_ms(self.options.outcome_ttl_s)

        def drop(stream: str, most: int) -> int:
            return int(self.wire.run(*commands.purge(self.keys, queue, most, ttl_ms=ttl_ms, stream=stream)))

        return self._drop_all(queue, drop)

    def _drop_all(self, queue: str, drop: Callable[[str, int], int]) -> int:
        """Drop as many messages as there are now, delayed ones first, in batches; returns how many were dropped.

        It ends even if others publish faster. ``drop(stream, most)`` drops at most that many from one stream, from the
        delayed messages if ``stream`` is '', and returns how many.
        """
        total = 0
        for stream in ("", *self._read_and_deferred(queue)):
            # A message that falls due or is let go meanwhile is in a stream that comes later.
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
            # An error raised here would leave this channel and the connection's others half open.
            logger.debug("binding of %s to %s not removed", queue, exchange, exc_info=True)
        if queue not in self._fanout_queues:
            self._delete_mailbox(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> Any:
        """Delete a queue, also one that this process has not declared; kombu would ignore that."""
        known = queue in self.state.queue_index
        result = super().queue_delete(queue, if_unused=if_unused, if_empty=if_empty, **kwargs)
        if not known and queue not in self._fanout_queues and not (if_empty and self._size(queue)):
            self._delete_mailbox(queue)
        return result

    def _delete_mailbox(self, queue: str) -> None:
        """Drop what waits, and the mailbox itself. If others go on publishing, it stays, with what came since."""
        streams, ttl_ms = self._read_and_deferred(queue), to_ms(self.options.outcome_ttl_s)
        is_reply = queue in self._reply_queues

        def drop(stream: str, most: int) -> int:
            call = commands.delete(self.keys, queue, streams, most, ttl_ms=ttl_ms, stream=stream, is_reply=is_reply)
            return int(self.wire.run(*call))

        self._drop_all(queue, drop)
        # An empty mailbox goes too.
        drop("", 0)
