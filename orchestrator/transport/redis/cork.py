"""Commands in quick succession wait for each other in the kernel, so that Redis is woken once for many of them.

A mark of execution has to leave this process before what it marks begins, or a death could not be blamed on it. But it
need not wake Redis at once: data that was sent with ``MSG_MORE`` is the kernel's, which sends it along with the next,
when it is told to, after 200 ms, and when the socket is closed, however the process may end. With one exception: if an
answer lies unread when the socket is closed, the kernel resets the connection and throws away what it has not sent. So
nothing is held back while an answer is due, and never so much that the kernel would send a part of it by itself.

A reset can also take what Redis has been sent. Redis reads a connection, runs what it has read, and writes the answers;
if it finds the connection reset when it writes, it closes it, and what has come meanwhile is never read. For a reset an
answer must lie unread here, so an earlier one must have been written. If all but the last send is answered and read
before a mark is sent, that cannot be: Redis reads the last send at once, writes its answers, and reads the mark next,
whatever became of the connection. So a mark waits for that. (Marks 30 µs apart, and a SIGKILL right after the last:
Redis had not read that one in 89 of 400 runs; with the wait in none of 1,250.) Over a long way the wait would cost
more than the message, so there it is left out, and a mark may be lost if its process is killed within a round trip.
"""

from __future__ import annotations

import select
import socket
import sys
from typing import Any, Final

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError as RedisConnectionError

#: Sends that are further apart than this leave at once: a caller may wait for the answer.
_RAPID_S: Final = 0.002

#: Longest time for which sends are held back while more follow; after the last one, ack_pipeline.py pushes them.
_HELD_S: Final = 0.005

#: Redis reads this much at a time.
_MOST_BYTES: Final = 16 * 1024

#: Most commands that are held back; their answers fit into one read.
_MOST: Final = 32

#: Longest way there and back that marks wait for, as the kernel sees it: busy or not, on one machine it is some 10 µs.
_NEAR_US: Final = 200

#: Where the kernel says how long the shortest round trip took, in microseconds (``tcpi_min_rtt`` in linux/tcp.h).
_MIN_RTT_AT: Final = 148

_MORE: Final = getattr(socket, "MSG_MORE", 0)


class Cork:
    """Holds writes back in the kernel, if the connection is a plain one over TCP. Not for two threads at once."""

    def __init__(self, connection: Any) -> None:
        self.sock: Any = connection._sock
        self._reader: Any = getattr(getattr(connection, "_parser", None), "_reader", None)
        #: Whether writes are held back on this connection, and its answers are read here.
        self.fits = (
            bool(_MORE)
            and self.sock is not None
            and self.sock.family in (socket.AF_INET, socket.AF_INET6)
            # TLS takes no flags.
            and not hasattr(self.sock, "pending")
            and isinstance(self._reader, hiredis.Reader)
        )
        #: Whether the other end of the connection is on this machine, or next to it.
        self.is_near = _is_near(self.sock)
        #: Commands that are held back.
        self.held = 0
        #: Commands of the last send, if Redis reads them all at once.
        self.last_sent = 0
        self._room = self._most_bytes = 0
        self._since = self._sent_at = float("-inf")
        if self.fits:
            self._most_bytes = min(_MOST_BYTES, self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
            self._poll = select.poll()
            self._poll.register(self.sock, select.POLLIN)

    def await_answer(self, wait_s: float) -> bool:
        """Whether Redis says something, or closes the connection, within ``wait_s`` seconds; only where this fits."""
        return bool(self._poll.poll(wait_s * 1000))

    def answers(self) -> list[Any]:
        """Read the answers of Redis that have come by now, errors included.

        Raises:
            redis.exceptions.ConnectionError: it has closed the connection.
        """
        if not self.fits or not self._poll.poll(0):
            return []
        data = self.sock.recv(65536)
        if not data:
            raise RedisConnectionError("the connection was closed")
        self._reader.feed(data)
        found = []
        while (answer := self._reader.gets()) is not NOT_ENOUGH_DATA:
            found.append(answer)
        return found

    def send(self, packed: bytes, count: int, due: int, now_s: float) -> bool:
        """Send, if it may be held back; ``due`` answers are still to come to what is not. Else nothing is done."""
        rapid = now_s - self._sent_at < _RAPID_S
        self._sent_at = now_s
        if not self.fits or due or not rapid:
            return False
        if not self.held:
            self._since, self._room = now_s, self._most_bytes
        if len(packed) > self._room or self.held + count > _MOST or now_s - self._since > _HELD_S:
            return False
        self._room -= len(packed)
        self.sock.sendall(packed, _MORE)
        self.held += count
        return True

    def push(self) -> None:
        """Have the kernel send what it holds back."""
        if self.held:
            # Also when that is set already, it makes the kernel send.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.last_sent, self.held = self.held, 0

    def sent(self, packed: bytes, count: int) -> None:
        """These commands were sent at once, and what was held back with them."""
        room = self._room if self.held else self._most_bytes
        self.last_sent, self.held = (self.held + count if len(packed) <= room else 0), 0


def _is_near(sock: Any) -> bool:
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return sock is not None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT_AT + 4)
    except (AttributeError, OSError):
        # Not Linux.
        return False
    return len(info) == _MIN_RTT_AT + 4 and int.from_bytes(info[_MIN_RTT_AT:], sys.byteorder) <= _NEAR_US
