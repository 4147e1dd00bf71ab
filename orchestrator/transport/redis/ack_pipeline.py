"""Acknowledgements and marks on their way to Redis: sent together, soon, and without waiting for the answers.

Everything here may be sent twice without harm, so after a broken connection all that was not confirmed is sent
again. Nothing is lost if the process dies instead: what was not acknowledged is still pending in Redis.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.redis_refusals import describe_outage
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.broken_keys import attach_command
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.cork import Cork
from orchestrator.transport.redis.refusals import is_full, is_passing, is_wrong_type
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.redis.scripts import sha, source

logger = get_logger(__name__)

#: Unread replies after which a sender reads those that have come, and after which it waits for them.
_UNREAD_SOME, _UNREAD_LIMIT = 32, 128

#: How often the flusher looks for replies, without waiting for them, before it does.
_GLANCES = 20

#: Longest time that a thread with something to send waits for another that is just sending.
_TURN_S = 0.05

#: Pause after Redis was found to be away.
_RETRY_S = 0.2

#: Scripts that a pipeline may run. A new connection's server may be one that was restarted and does not have them.
_SCRIPTS = ("settle", "settle_with_outcome", "retry", "dead_letter", "requeue_held")

#: A command that Redis refuses this often is not sent again; its message stays pending.
_REFUSALS = 5

#: Pause before a script is run again that found a key of another type, and how many scripts wait so at most.
_BROKEN_KEY_PAUSE_S, _MOST_WAITING = 1.0, 1000

#: Without a prefix.
_KEYS = Keys()

Reply = Callable[[Any], None]


class _PostedCommand:
    __slots__ = ("is_logged", "name", "on_reply", "packed", "refused", "script")

    def __init__(self, script: str | None, args: tuple[Any, ...], on_reply: Reply | None) -> None:
        self.script = script
        self.name = script or args[0]
        self.on_reply = on_reply
        self.refused = 0
        self.is_logged = False
        # Pack in the caller's thread, so that encoding errors reach the caller. redis-py's packer looks at each
        # argument before it calls this one.
        self.packed: bytes = pack_command(args if script is None else ("EVALSHA", sha(script), *args))


class AckPipeline:
    """Ordered, at-least-once sending of commands over one connection. Safe for several threads."""

    def __init__(
        self,
        pool: Pool,
        *,
        flush_s: float,
        flush_count: int,
        group: str,
        keys: Keys = _KEYS,
        levels: tuple[str, ...] = (),
    ) -> None:
        self._keys, self._levels = keys, levels
        self._commands = CommandConnection(pool)
        self._flush_s = flush_s
        self._flush_count = flush_count
        self._group = group
        # A signal's handler may post in the middle of a post of the same thread.
        self._mutex = threading.RLock()
        self._io = threading.Lock()
        self._queue: deque[_PostedCommand] = deque()
        self._acks: dict[tuple[str, str, str], list[str]] = {}
        self._ack_count = 0
        self._unread: deque[_PostedCommand] = deque()
        #: Scripts that found a key of another type; run again when somebody may have moved it away.
        self._waiting: deque[_PostedCommand] = deque()
        #: When they are run again (monotonic), even under load.
        self._repeat_at = 0.0
        self._broken_key_logged = ""
        self._loaded_on: Any = None
        self._cork: Cork | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._away = False
        self._posted_meanwhile = False
        for name in _SCRIPTS:
            # Read now rather than in the middle of the first message.
            source(name)
        self._thread = threading.Thread(target=self._flush_in_time, name="orchestrator-outbox", daemon=True)
        self._thread.start()

    @property
    def unsent(self) -> int:
        """Commands and acknowledgements that Redis has not confirmed."""
        return len(self._queue) + self._ack_count + len(self._unread) + len(self._waiting)

    def is_unconfirmed(self, stream: str, entry: str) -> bool:
        """Whether something about this entry is still to be sent, to be answered, or to be repeated."""
        wanted = {stream.encode(), entry.encode()}
        with self._mutex:
            posted = (*self._waiting, *self._queue, *tuple(self._unread))
            acked = [one for (of, *_), entries in self._acks.items() if of == stream for one in entries]
        # Of a packed command, each second line is an argument.
        return entry in acked or any(wanted <= set(one.packed.split(b"\r\n")[2::2]) for one in posted)

    def ack(self, stream: str, ledger: str, outcome: str, entry: str) -> None:
        """Settle one entry; sent with others."""
        with self._mutex:
            self._acks.setdefault((stream, ledger, outcome), []).append(entry)
            self._ack_count += 1
            full = self._ack_count >= self._flush_count
        if full:
            self.flush()
        elif not self._wake.is_set():
            self._wake.set()

    def post(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Any],
        on_reply: Reply | None = None,
        *,
        soon: bool = False,
    ) -> None:
        """Run a script, after all that was posted before; sent now or, if ``soon`` will do, with others like an ack."""
        posted = _PostedCommand(script, (len(keys), *keys, *args), on_reply)
        if not soon:
            self._post(posted)
            if script != "settle_with_outcome":
                # The thread reads the reply: a refusal would go unnoticed until the next post. That one writes nothing
                # that is refused, and each call pays for it.
                self._wake.set()
            return
        with self._mutex:
            self._collect_acks()
            self._queue.append(posted)
            full = len(self._queue) >= self._flush_count
        if full:
            self.flush()
        elif not self._wake.is_set():
            self._wake.set()

    def command(self, *args: Any, on_reply: Reply | None = None) -> bool:
        """Run a plain command, after all that was posted before. In quick succession, many go together (see cork.py).

        Returns:
            Whether it has left this process: from then on only the machine's end can stop it.
        """
        return self._post(_PostedCommand(None, args, on_reply), may_wait=True)

    def _post(self, posted: _PostedCommand, *, may_wait: bool = False) -> bool:
        with self._mutex:
            self._collect_acks()
            self._queue.append(posted)
        return self.flush(may_wait=may_wait)

    def _collect_acks(self) -> None:
        if not self._acks:
            return
        acks, self._acks, self._ack_count = self._acks, {}, 0
        for (stream, ledger, outcome), entries in acks.items():
            for start in range(0, len(entries), 500):
                ids = entries[start : start + 500]
                script, keys, args = commands.settle(stream, ledger, outcome, ids, group=self._group)
                try:
                    self._queue.append(_PostedCommand(script, (len(keys), *keys, *args), None))
                except ValueError:
                    # The caller's own command may be fine.
                    logger.exception("%d messages cannot be settled; they stay pending", len(ids))

    def flush(self, *, wait_s: float = 0.0, glance: bool = False, may_wait: bool = False) -> bool:
        """Send what is queued. With ``wait_s``, also wait that long for every confirmation.

        With ``glance``, read those that have come. With ``may_wait``, the kernel may hold it back for a moment.

        Returns:
            Whether everything is sent (and, with ``wait_s``, confirmed).
        """
        # Nobody waits for Redis in here unless told to, so a mark's turn comes before what it marks begins.
        if not self._io.acquire(timeout=wait_s or _TURN_S):
            # Or Redis is slow; the thread that waits for it will send this when it is done. It may be by now, so look
            # again.
            self._posted_meanwhile = True
            if not self._io.acquire(blocking=False):
                self._wake.set()
                return False
        self._posted_meanwhile = False
        try:
            if self._queue or self._ack_count or self._unread:
                self._send(may_wait)
                self._read(everything=wait_s > 0, glance=glance)
            if wait_s and self._is_refused():
                # What only lacked its script has it now.
                self._send(may_wait)
                self._read(everything=True, glance=glance)
        except (RedisError, OSError) as error:
            self._broken(error)
            return False
        except BaseException:
            # Raised by a signal's handler. Half a command may have been sent, or half the answers taken in.
            self._begin_anew()
            raise
        finally:
            self._io.release()
        if self._posted_meanwhile:
            return self.flush(wait_s=wait_s, glance=glance)
        return not (wait_s and self._is_refused())

    def _is_refused(self) -> bool:
        """Whether something is to be sent again because Redis refused it."""
        with self._mutex:
            return any(posted.refused for posted in self._queue)

    def _send(self, may_wait: bool) -> None:
        connection = self._commands.connection
        # A reply that is still to come would be taken for the answer.
        if connection is not self._loaded_on and not self._unread:
            self._load_scripts()
            connection = self._loaded_on = self._commands.connection
        cork = self._cork
        if cork is None or cork.sock is not connection._sock:
            cork = self._cork = Cork(connection)
        if may_wait and len(self._unread) > cork.held:
            self._take_in(cork.answers())
        with self._mutex:
            if self._acks:
                self._collect_acks()
            batch = []
            while self._queue:
                batch.append(self._queue.popleft())
            # Before sending: if that fails half-way, all of it is sent again.
            self._unread.extend(batch)
        if not batch:
            cork.push()
            return
        packed, count = b"".join([posted.packed for posted in batch]), len(batch)
        if not may_wait or not cork.send(packed, count, len(self._unread) - count - cork.held, monotonic()):
            self._commands.send([packed])
            cork.held = 0
        elif not self._wake.is_set():
            self._wake.set()
        if self._away:
            self._away = False
            logger.warning("acknowledgements reach Redis again")

    def _load_scripts(self) -> None:
        """Load what the server does not have, before anything else is sent.

        If a process is killed with replies unread, the kernel resets its connection, and Redis reads no further. The
        scripts are many times what it reads at once, so a mark that was sent behind them would be lost.
        """
        for name in self._missing_scripts():
            load = ("SCRIPT", "LOAD", source(name))
            try:
                self._commands.call(*load)
            except ResponseError:
                # As a command it is tried again, and a refusal is logged.
                with self._mutex:
                    self._queue.appendleft(_PostedCommand(None, load, None))

    def _missing_scripts(self) -> Sequence[str]:
        """The scripts that the server does not have: each that is loaded goes into its append-only file, too."""
        try:
            found = self._commands.call("SCRIPT", "EXISTS", *map(sha, _SCRIPTS))
        except ResponseError:
            # Not allowed here (ACL, a managed Redis).
            return _SCRIPTS
        return [name for name, is_there in zip(_SCRIPTS, found, strict=True) if not is_there]

    def _read(self, *, everything: bool, glance: bool) -> None:
        if not self._unread or not (everything or glance or len(self._unread) > _UNREAD_SOME):
            return
        connection, cork = self._commands.connection, self._cork
        if not everything and cork is not None and cork.sock is connection._sock:
            # Many at once.
            self._take_in(cork.answers())
        while self._unread and (everything or len(self._unread) > _UNREAD_LIMIT or connection.can_read(timeout=0)):
            try:
                reply = connection.read_response()
            except ResponseError as error:
                reply = error
            self._take_in([reply])

    def _take_in(self, replies: Iterable[Any]) -> None:
        for reply in replies:
            if isinstance(reply, RedisConnectionError):
                # An answer that says that the server is none yet, or none any more.
                raise reply
            posted = self._unread[0]
            if isinstance(reply, ResponseError):
                self._refused(posted, reply)
                # Not before it is queued again: at each moment it can be found (see is_unconfirmed).
                self._unread.popleft()
                continue
            self._unread.popleft()
            said = unwrap_reply(reply)
            if posted.on_reply is not None:
                posted.on_reply(said)

    def _refused(self, posted: _PostedCommand, error: ResponseError) -> None:
        posted.refused += 1
        if isinstance(error, NoScriptError) and posted.script is not None:
            with self._mutex:
                load = _PostedCommand(None, ("SCRIPT", "LOAD", source(posted.script)), None)
                self._queue.appendleft(posted)
                self._queue.appendleft(load)
            self._wake.set()
        elif is_passing(error) or is_full(error):
            posted.refused = 0
            # It stays before what was sent after it: of two marks of one message the later one is to stay.
            raise RedisConnectionError(str(error)) from error
        elif is_wrong_type(error) and posted.script is not None and len(self._waiting) < _MOST_WAITING:
            # Not at once, and not before what other mailboxes settle meanwhile.
            with self._mutex:
                if not self._waiting:
                    self._repeat_at = monotonic() + _BROKEN_KEY_PAUSE_S
                self._waiting.append(posted)
            self._log_broken_key(posted, error)
            self._wake.set()
        elif posted.refused < _REFUSALS:
            logger.warning("Redis refused %s: %s; trying again", posted.name, error)
            with self._mutex:
                self._queue.append(posted)
            self._wake.set()
        else:
            logger.error(
                "Redis refused %s %d times: %s; not tried again, and its message stays pending",
                posted.name, posted.refused, error,
            )  # fmt: skip

    def _log_broken_key(self, posted: _PostedCommand, error: ResponseError) -> None:
        # Of a packed command, each second line is an argument.
        attach_command(error, posted.packed.split(b"\r\n")[2::2])
        text = str(self._commands.named_refusal(error, self._keys, self._levels))
        # The key may be right again by now, and is not named then.
        if text != self._broken_key_logged and not posted.is_logged:
            self._broken_key_logged = text
            logger.error("Redis refused %s: %s; repeated until Redis accepts it", posted.name, text)
        posted.is_logged = True

    def _repeat_waiting(self) -> None:
        with self._mutex:
            self._queue.extend(self._waiting)
            self._waiting.clear()

    def _broken(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning("acknowledgements delayed: %s", describe_outage(error))
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Close the connection; what was not confirmed is sent again over the next."""
        # redis-py opens a broken connection again as the same object; the server may be another.
        self._loaded_on = None
        try:
            self._commands.drop()
        except (RedisError, OSError):
            logger.debug("closing a broken connection failed", exc_info=True)
        with self._mutex:
            self._queue.extendleft(reversed(self._unread))
            self._unread.clear()
        self._wake.set()

    def _flush_in_time(self) -> None:
        pause = threading.Event()
        while not self._closed.is_set():
            self._wake.wait(max(0.0, self._repeat_at - monotonic()) if self._waiting else None)
            if self._waiting and monotonic() >= self._repeat_at:
                self._repeat_waiting()
            if self._closed.is_set():
                return
            pause.wait(_RETRY_S if self._away else self._flush_s)
            self._wake.clear()
            try:
                self._flush_and_read(pause)
            except Exception:
                # Without this thread nothing would be acknowledged any more; what was not confirmed is queued again.
                logger.exception("acknowledgements delayed: sending them failed")
                pause.wait(_RETRY_S)

    def _flush_and_read(self, pause: threading.Event) -> None:
        self.flush()
        # Read the answers of the last batch too, or a refusal would go unnoticed until the next one.
        for _ in range(_GLANCES):
            if not self._unread or self._away or self._closed.is_set():
                break
            pause.wait(self._flush_s)
            self.flush(glance=True)
        else:
            self.flush(wait_s=1.0)

    def close(self, *, wait_s: float) -> bool:
        """Send and confirm what is left, then close. Returns whether all of it was confirmed in time."""
        until = monotonic() + wait_s
        pause = threading.Event()
        self._repeat_waiting()
        while not (done := self.flush(wait_s=max(0.05, until - monotonic())) and self.unsent == 0):
            if monotonic() > until:
                break
            pause.wait(min(_RETRY_S, wait_s))
        self._closed.set()
        self._wake.set()
        with self._io:
            try:
                self._commands.drop()
            except (RedisError, OSError):
                logger.debug("closing the connection failed", exc_info=True)
        return done
