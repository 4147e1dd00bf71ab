"""Acknowledgements and marks on their way to Redis: sent together, soon, and without waiting for the answers.

Everything here may be sent twice without harm, so after a broken connection all that was not confirmed is sent
again. Nothing is lost if the process dies instead: what was not acknowledged is still pending in Redis.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from math import inf
from time import monotonic, perf_counter
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.redis_refusals import describe_outage
from orchestrator.transport.redis.broken_keys import attach_command
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.cork import Cork
from orchestrator.transport.redis.posted_commands import PostedCommand, PostedCommands, Reply
from orchestrator.transport.redis.readable import is_readable
from orchestrator.transport.redis.refusals import is_full, is_passing, is_wrong_type
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.redis.scripts import sha, source

logger = get_logger(__name__)

#: Unread answers after which a sender takes in those that have come, and after which it waits for them.
_UNREAD_SOME, _UNREAD_LIMIT = 32, 128

#: How often the flusher looks for replies, without waiting for them, before it does.
_GLANCES = 20

#: Longest time that a thread waits for the lock to send, which another has while it sends.
_LOCK_S = 0.05

#: The same for a mark: the message must not begin without it, however long a busy machine stops the other thread.
_LOCK_FOR_MARK_S = 1.0

#: Longest time that a mark waits for the answers to what was sent before it (see cork.py).
_ANSWERS_S = 0.5

#: If a round trip takes longer, a mark does not wait: a proxy or a tunnel on this machine may lead far away.
#: On a busy machine one may take longer by chance, so up to three are measured, and the shortest counts.
_NEAR_S, _MEASURED = 0.002, 3

#: How often a thread that waits for answers looks whether another has taken them in.
_LOOK_S = 0.01

#: How long a connection may be silent while answers are due, if the connection itself does not say.
_SILENCE_S = 5.0

#: Pause after Redis was found to be away.
_RETRY_S = 0.2

#: Scripts that a pipeline may run. A new connection's server may be one that was restarted and does not have them.
_SCRIPTS = ("settle", "settle_with_outcome", "retry", "dead_letter", "requeue_held")

#: A command that Redis refuses this often is not sent again; its message stays pending.
_REFUSALS = 5

#: Without a prefix.
_KEYS = Keys()


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
        self._posted = PostedCommands(group)
        self._send_lock = threading.Lock()
        self._broken_key_logged = ""
        #: The connection, once its server has the scripts.
        self._loaded_on: Any = None
        #: The shortest that was measured on this connection.
        self._round_trip_s = 0.0
        self._cork: Cork | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._away = False
        #: Answers that were taken in so far.
        self._answers = 0
        #: Connections that were closed so far.
        self._closings = 0
        #: Whether a mark has waited for answers in vain, and some are still due.
        self._is_slow = False
        self._posted_meanwhile = False
        for name in _SCRIPTS:
            # Read now rather than in the middle of the first message.
            source(name)
        self._thread = threading.Thread(target=self._flush_in_time, name="orchestrator-ack-pipeline", daemon=True)
        self._thread.start()

    @property
    def unsent(self) -> int:
        """Commands and acknowledgements that Redis has not confirmed."""
        return len(self._posted)

    def is_unconfirmed(self, stream: str, entry: str) -> bool:
        """Whether something about this entry is still to be sent, to be answered, or to be repeated."""
        return self._posted.mentions(stream, entry)

    def ack(self, stream: str, ledger: str, outcome: str, entry: str) -> None:
        """Settle one entry; sent with others."""
        if self._posted.ack(stream, ledger, outcome, entry) >= self._flush_count:
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
        posted = PostedCommand(script, (len(keys), *keys, *args), on_reply)
        if not soon:
            self._post(posted)
            if script != "settle_with_outcome":
                # The thread reads the reply: a refusal would go unnoticed until the next post. That one writes nothing
                # that is refused, and each call pays for it.
                self._wake.set()
            return
        if self._posted.append(posted) >= self._flush_count:
            self.flush()
        elif not self._wake.is_set():
            self._wake.set()

    def command(self, *args: Any, on_reply: Reply | None = None) -> bool:
        """Run a plain command, after all that was posted before. In quick succession, many go together (see cork.py).

        What was sent before is answered by then, unless Redis is slow: if an answer is unread when this process ends,
        the kernel resets the connection, and Redis may not read what was sent last.

        Returns:
            Whether it has left this process.
        """
        return self._post(PostedCommand(None, args, on_reply), may_wait=True)

    def _post(self, posted: PostedCommand, *, may_wait: bool = False) -> bool:
        self._posted.append(posted)
        return self.flush(may_wait=may_wait)

    def flush(self, *, wait_s: float = 0.0, glance: bool = False, may_wait: bool = False) -> bool:
        """Send what is queued. With ``wait_s``, also wait that long for every confirmation.

        With ``glance``, take in those that have come. With ``may_wait``, the kernel may hold it back for a moment.

        Returns:
            Whether everything is sent (and, with ``wait_s``, confirmed).
        """
        if wait_s:
            return self._flush_and_wait(wait_s)
        is_sent = self._send_when_free(_LOCK_FOR_MARK_S if may_wait else _LOCK_S, glance=glance, may_wait=may_wait)
        if len(self._posted.unread) > _UNREAD_LIMIT:
            self._flush_and_wait(self._silence_s())
        return is_sent

    def _flush_and_wait(self, wait_s: float) -> bool:
        until = monotonic() + wait_s
        # What only lacked its script has it the second time.
        for _ in range(2):
            last = self._posted.last()
            while True:
                if not self._send_when_free(max(0.0, until - monotonic()), glance=True):
                    return False
                if last is None or last.is_answered:
                    break
                if not self._await_answer(last, until):
                    return False
            if not self._posted.is_any_refused():
                return True
        return False

    def _await_answer(self, last: PostedCommand, until: float) -> bool:
        """Wait until Redis answers something, while other threads may send.

        Returns whether it did, or another thread has read the answer that is waited for.
        """
        while not last.is_answered and (left_s := until - monotonic()) > 0:
            connection = self._loaded_on
            try:
                if connection is None or is_readable(connection, min(_LOOK_S, left_s)):
                    return True
            except (OSError, ValueError):
                # Closed by another thread: it is sent again over the next one.
                return True
        return last.is_answered

    def _silence_s(self) -> float:
        return float(getattr(self._loaded_on, "socket_timeout", None) or _SILENCE_S)

    def _send_when_free(self, lock_s: float, *, glance: bool = False, may_wait: bool = False) -> bool:
        """Send what is queued, once no other thread does so; returns whether it is sent.

        Only a mark waits for Redis while it has the lock: another thread's mark must not be late for what it marks.
        """
        if not self._send_lock.acquire(timeout=lock_s):
            # The thread that has the lock will send this when it is done. It may be by now, so look again.
            self._posted_meanwhile = True
            if not self._send_lock.acquire(blocking=False):
                self._wake.set()
                return False
        self._posted_meanwhile = False
        try:
            if self._posted.has_pending:
                self._send(may_wait)
                if glance or len(self._posted.unread) > _UNREAD_SOME:
                    self._read_available()
        except (RedisError, OSError) as error:
            self._broken(error)
            return False
        except BaseException:
            # Raised by a signal's handler. Half a command may have been sent, or half the answers taken in.
            self._begin_anew()
            raise
        finally:
            self._send_lock.release()
        if self._posted_meanwhile:
            # By a thread that did not get the lock. If a third one has it by now, that one will send it.
            self._send_when_free(0.0, glance=glance)
        return True

    def _send(self, may_wait: bool) -> None:
        connection = self._commands.connection
        # A reply that is still to come would be taken for the answer.
        if connection is not self._loaded_on and not self._posted.unread:
            self._load_scripts()
            connection = self._loaded_on = self._commands.connection
        cork = self._cork
        if cork is None or cork.sock is not connection._sock:
            cork = self._cork = Cork(connection)
        if may_wait and len(self._posted.unread) > cork.held:
            self._read_available()
            if cork.is_near and self._round_trip_s <= _NEAR_S:
                self._await_earlier_answers(cork)
        batch = self._posted.take_batch()
        if not batch:
            cork.push()
            return
        packed, count = b"".join([posted.packed for posted in batch]), len(batch)
        if not may_wait or not cork.send(packed, count, len(self._posted.unread) - count - cork.held, monotonic()):
            self._commands.send([packed])
            cork.sent(packed, count)
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
        self._round_trip_s = inf
        for _ in range(_MEASURED):
            began = perf_counter()
            missing = self._missing_scripts()
            self._round_trip_s = min(self._round_trip_s, perf_counter() - began)
            if self._round_trip_s <= _NEAR_S:
                break
        for name in missing:
            load = ("SCRIPT", "LOAD", source(name))
            try:
                self._commands.call(*load)
            except ResponseError:
                # As a command it is tried again, and a refusal is logged.
                self._posted.put_first(PostedCommand(None, load, None))

    def _missing_scripts(self) -> Sequence[str]:
        """The scripts that the server does not have: each that is loaded goes into its append-only file, too."""
        try:
            found = self._commands.call("SCRIPT", "EXISTS", *map(sha, _SCRIPTS))
        except ResponseError:
            # Not allowed here (ACL, a managed Redis).
            return _SCRIPTS
        return [name for name, is_there in zip(_SCRIPTS, found, strict=True) if not is_there]

    def _await_earlier_answers(self, cork: Cork) -> None:
        """Read the answers to all but the last send (see cork.py), unless Redis is slow."""
        connection, until = self._commands.connection, monotonic() + _ANSWERS_S
        while len(self._posted.unread) > cork.last_sent and not self._is_slow:
            left_s = max(0.0, until - monotonic())
            if cork.await_answer(left_s) if cork.fits else is_readable(connection, left_s):
                self._read_available()
            else:
                # This one would have waited in vain, and so would each one after it.
                self._is_slow = True

    def _read_available(self) -> None:
        connection, cork = self._commands.connection, self._cork
        if cork is not None and cork.fits and cork.sock is connection._sock:
            # Many at once.
            self._take_in(cork.answers())
            return
        while self._posted.unread and connection.can_read(timeout=0):
            try:
                reply = connection.read_response()
            except ResponseError as error:
                reply = error
            self._take_in([reply])

    def _take_in(self, replies: Iterable[Any]) -> None:
        for reply in replies:
            if isinstance(reply, RedisConnectionError):
                # Redis is loading, or shutting down.
                raise reply
            posted = self._posted.unread[0]
            self._answers += 1
            if isinstance(reply, ResponseError):
                self._refused(posted, reply)
                # Not before it is queued again: at each moment it can be found (see is_unconfirmed).
                self._posted.unread.popleft()
                posted.is_answered = True
                continue
            self._posted.unread.popleft()
            try:
                answer = unwrap_reply(reply)
                if posted.on_reply is not None:
                    posted.on_reply(answer)
            finally:
                # Only now: who waits for the confirmation may look at once for what was done with the answer.
                posted.is_answered = True
        if not self._posted.unread:
            self._is_slow = False

    def _refused(self, posted: PostedCommand, error: ResponseError) -> None:
        posted.refused += 1
        if isinstance(error, NoScriptError) and posted.script is not None:
            load = PostedCommand(None, ("SCRIPT", "LOAD", source(posted.script)), None)
            self._posted.put_first(load, posted)
            self._wake.set()
        elif is_passing(error) or is_full(error):
            posted.refused = 0
            # It stays before what was sent after it: of two marks of one message the later one is to stay.
            raise RedisConnectionError(str(error)) from error
        elif is_wrong_type(error) and posted.script is not None and self._posted.defer(posted):
            self._log_broken_key(posted, error)
            self._wake.set()
        elif posted.refused < _REFUSALS:
            logger.warning("Redis refused %s: %s; trying again", posted.name, error)
            self._posted.append(posted)
            self._wake.set()
        else:
            logger.error(
                "Redis refused %s %d times: %s; not tried again, and its message stays pending",
                posted.name, posted.refused, error,
            )  # fmt: skip

    def _log_broken_key(self, posted: PostedCommand, error: ResponseError) -> None:
        attach_command(error, posted.words())
        text = str(self._commands.named_refusal(error, self._keys, self._levels))
        # The key may be right again by now, and is not named then.
        if text != self._broken_key_logged and not posted.is_logged:
            self._broken_key_logged = text
            logger.error("Redis refused %s: %s; repeated until Redis accepts it", posted.name, text)
        posted.is_logged = True

    def _broken(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning("acknowledgements delayed: %s", describe_outage(error))
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Close the connection; what was not confirmed is sent again over the next."""
        # redis-py opens a broken connection again as the same object; the server may be another.
        self._loaded_on = None
        self._closings += 1
        self._is_slow = False
        try:
            self._commands.drop()
        except (RedisError, OSError):
            logger.debug("closing a broken connection failed", exc_info=True)
        self._posted.put_back()
        self._wake.set()

    def _flush_in_time(self) -> None:
        pause = threading.Event()
        while not self._closed.is_set():
            self._wake.wait(max(0.0, self._posted.repeat_at - monotonic()) if self._posted.deferred else None)
            if self._posted.deferred and monotonic() >= self._posted.repeat_at:
                self._posted.requeue_deferred()
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
            if not self._posted.unread or self._away or self._closed.is_set():
                break
            pause.wait(self._flush_s)
            self.flush(glance=True)
        else:
            self._await_silent_server()

    def _await_silent_server(self) -> None:
        """Wait for the answers that are due; a connection that stays silent for its time-out is given up."""
        before = self._answers, self._closings
        if self._flush_and_wait(self._silence_s()):
            return
        with self._send_lock:
            # Not one that was opened meanwhile.
            if self._posted.unread and (self._answers, self._closings) == before:
                self._broken(RedisTimeoutError("Timeout reading from socket"))

    def close(self, *, wait_s: float) -> bool:
        """Send and confirm what is left, then close. Returns whether all of it was confirmed in time."""
        until = monotonic() + wait_s
        pause = threading.Event()
        self._posted.requeue_deferred()
        while not (done := self.flush(wait_s=max(0.05, until - monotonic())) and self.unsent == 0):
            if monotonic() > until:
                break
            pause.wait(min(_RETRY_S, wait_s))
        self._closed.set()
        self._wake.set()
        with self._send_lock:
            # A thread of the pool may still post; it opens another connection.
            self._begin_anew()
        return done
