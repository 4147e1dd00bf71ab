"""Commands that were posted to Redis, until it has confirmed them: queued, sent, or deferred."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from hiredis import pack_command

from orchestrator.core.log import get_logger
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import sha

logger = get_logger(__name__)

#: Most messages that one script settles.
_MOST_ENTRIES = 500

#: Pause before a script is run again that found a key of another type, and how many scripts wait so at most.
_BROKEN_KEY_PAUSE_S, _MOST_DEFERRED = 1.0, 1000

Reply = Callable[[Any], None]


class PostedCommand:
    """A command, packed as it is sent."""

    __slots__ = ("is_answered", "is_logged", "name", "on_reply", "packed", "refused", "script")

    def __init__(self, script: str | None, args: tuple[Any, ...], on_reply: Reply | None) -> None:
        """Of a ``script``, ``args`` begin with the number of its keys.

        Raises:
            ValueError: an argument cannot be encoded.
        """
        self.script = script
        self.name = script or args[0]
        self.on_reply = on_reply
        #: How often Redis has refused it.
        self.refused = 0
        #: Whether Redis has accepted or refused it since it was last sent.
        self.is_answered = False
        #: Whether it was logged that a key is of another type.
        self.is_logged = False
        # Pack in the caller's thread, so that encoding errors reach the caller. redis-py's packer looks at each
        # argument before it calls this one.
        self.packed: bytes = pack_command(args if script is None else ("EVALSHA", sha(script), *args))

    def words(self) -> list[bytes]:
        """The command's name and its arguments."""
        # Of a packed command, each second line is one.
        return self.packed.split(b"\r\n")[2::2]


class PostedCommands:
    """The commands of one connection, in order, until Redis has confirmed them. Safe for several threads.

    At each moment a command can be found in one of the places at least, and each may be sent twice without harm.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        # A signal's handler may post in the middle of a post of the same thread.
        self.mutex = threading.RLock()
        #: To be sent.
        self.queue: deque[PostedCommand] = deque()
        #: Sent; only the thread that has the lock to send takes one out.
        self.unread: deque[PostedCommand] = deque()
        #: Scripts that found a key of another type; run again when somebody may have moved it away.
        self.deferred: deque[PostedCommand] = deque()
        #: When they are run again (monotonic), even under load.
        self.repeat_at = 0.0
        self._acks: dict[tuple[str, str, str], list[str]] = {}
        self._ack_count = 0

    def __len__(self) -> int:
        """Commands and acknowledgements that Redis has not confirmed."""
        return len(self.queue) + self._ack_count + len(self.unread) + len(self.deferred)

    @property
    def has_pending(self) -> bool:
        """Whether there is anything to send, or any answer due."""
        return bool(self.queue or self._ack_count or self.unread)

    def mentions(self, stream: str, entry: str) -> bool:
        """Whether something about this entry is still to be sent, to be answered, or to be repeated."""
        wanted = {stream.encode(), entry.encode()}
        with self.mutex:
            posted = (*self.deferred, *self.queue, *tuple(self.unread))
            acked = [one for (of, *_), entries in self._acks.items() if of == stream for one in entries]
        return entry in acked or any(wanted <= set(one.words()) for one in posted)

    def ack(self, stream: str, ledger: str, outcome: str, entry: str) -> int:
        """Settle one entry; returns how many are to be settled, in one script for many of them."""
        with self.mutex:
            self._acks.setdefault((stream, ledger, outcome), []).append(entry)
            self._ack_count += 1
            return self._ack_count

    def append(self, posted: PostedCommand) -> int:
        """Queue a command after all that was posted before; returns how many are queued."""
        with self.mutex:
            self.collect_acks()
            self.queue.append(posted)
            return len(self.queue)

    def collect_acks(self) -> None:
        """Queue the scripts that settle what was acknowledged."""
        if not self._acks:
            return
        acks, self._acks, self._ack_count = self._acks, {}, 0
        try:
            for (stream, ledger, outcome), entries in acks.items():
                while entries:
                    self._queue_settle(stream, ledger, outcome, entries[:_MOST_ENTRIES])
                    del entries[:_MOST_ENTRIES]
        except BaseException:
            # Raised by a signal's handler. What is queued by now may be sent twice.
            for key, entries in acks.items():
                self._acks.setdefault(key, []).extend(entries)
                self._ack_count += len(entries)
            raise

    def _queue_settle(self, stream: str, ledger: str, outcome: str, entries: list[str]) -> None:
        script, keys, args = commands.settle(stream, ledger, outcome, entries, group=self._group)
        try:
            self.queue.append(PostedCommand(script, (len(keys), *keys, *args), None))
        except ValueError:
            # The caller's own command may be fine.
            logger.exception("%d messages cannot be settled; they stay pending", len(entries))

    def last(self) -> PostedCommand | None:
        """The newest one, if Redis has not answered it."""
        with self.mutex:
            self.collect_acks()
            for place in (self.queue, self.unread):
                try:
                    return place[-1]
                except IndexError:
                    # Another thread may just have taken in the last answer.
                    continue
        return None

    def is_any_refused(self) -> bool:
        """Whether something is to be sent again because Redis refused it."""
        with self.mutex:
            return any(posted.refused for posted in self.queue)

    # -- by the thread that has the lock to send

    def take_batch(self) -> list[PostedCommand]:
        """All that are to be sent. They are unread from now on: if sending fails half-way, all of it is sent again."""
        with self.mutex:
            self.collect_acks()
            batch = list(self.queue)
            for posted in batch:
                posted.is_answered = False
            # In this order: where a signal's handler raises, they are sent twice rather than never.
            self.unread.extend(batch)
            for _ in batch:
                self.queue.popleft()
        return batch

    def put_first(self, *posted: PostedCommand) -> None:
        """Queue commands before all others."""
        with self.mutex:
            self.queue.extendleft(reversed(posted))

    def put_back(self) -> None:
        """Queue again what was sent and is not answered."""
        with self.mutex:
            self.queue.extendleft(reversed(self.unread))
            self.unread.clear()

    def defer(self, posted: PostedCommand) -> bool:
        """Keep a script for later, after what other mailboxes settle meanwhile; returns whether there is room."""
        with self.mutex:
            if len(self.deferred) >= _MOST_DEFERRED:
                return False
            if not self.deferred:
                self.repeat_at = monotonic() + _BROKEN_KEY_PAUSE_S
            self.deferred.append(posted)
        return True

    def requeue_deferred(self) -> None:
        """Queue what was deferred."""
        with self.mutex:
            self.queue.extend(self.deferred)
            self.deferred.clear()
