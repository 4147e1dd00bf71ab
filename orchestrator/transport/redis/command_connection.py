"""One Redis connection of our own: commands out, replies in, no client in between.

kombu builds a client for each publish, which costs half of it; and a client cannot send without waiting.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.broken_keys import attach_command, describe_refusal
from orchestrator.transport.redis.refusals import RefusesForNow, is_passing
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.redis.scripts import Script, own

_NOBODY = (0, 0)


def _here() -> tuple[int, int]:
    # A child's main thread has the number that its parent's has.
    return os.getpid(), threading.get_ident()


class Pool(Protocol):
    """A redis-py connection pool, as far as this module uses one."""

    def get_connection(self) -> Any: ...
    def release(self, connection: Any) -> None: ...
    def disconnect(self, inuse_connections: bool = True) -> None: ...


class CommandConnection:
    """A connection that is opened when first used and opened again after it broke. Not for two threads at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Any = None
        self._pid = os.getpid()
        #: Nobody else's.
        self.name = os.urandom(8).hex()
        #: By process: who held it when this one was forked is not here to let it go.
        self._locks: dict[int, threading.Lock] = {}
        #: The process and the thread that are in the middle of a command.
        self._busy_in = _NOBODY
        #: The socket on which the server was asked which one it is, and what it said.
        self._asked_on: Any = None
        self._server = ""
        #: The same of its number there.
        self._numbered_on: Any = None
        self._client = ""

    @property
    def lock(self) -> threading.Lock:
        """The turn to use the connection."""
        return self._lock_in(os.getpid())

    def _lock_in(self, pid: int) -> threading.Lock:
        return self._locks.get(pid) or self._locks.setdefault(pid, threading.Lock())

    @property
    def connection(self) -> Any:
        """The open redis-py connection.

        Raises:
            redis.exceptions.RedisError: it cannot be opened.
        """
        if self._pid != os.getpid():
            # A fork: the parent's connection is not ours to use, nor to close.
            self._pid = os.getpid()
            self.name = os.urandom(8).hex()
            self._connection = None
        if self._connection is None:
            self._connection = self._pool.get_connection()
        return self._connection

    def drop(self) -> None:
        """Close the connection; what was sent on it may or may not have been done."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)

    def send(self, packed: Sequence[bytes]) -> None:
        """Send packed commands without waiting for their replies."""
        self.connection.send_packed_command(packed, check_health=False)

    def begin(self, packed: Sequence[bytes]) -> None:
        """Send packed commands; until :meth:`end` has read their replies, other threads have to wait."""
        self.lock.acquire()
        self._busy_in = _here()
        try:
            self.send(packed)
        except BaseException:
            self.abandon()
            raise

    def end(self, count: int) -> list[Any]:
        """The replies to the next ``count`` commands; an error reply is one of them."""
        try:
            replies = [self._reply() for _ in range(count)]
        except BaseException:
            self.abandon()
            raise
        self._busy_in = _NOBODY
        self.lock.release()
        return replies

    def _reply(self) -> Any:
        try:
            return unwrap_reply(self.connection.read_response())
        except ResponseError as error:
            return error

    def abandon(self) -> None:
        """Wait for no more replies to what was begun."""
        self._busy_in = _NOBODY
        self.lock.release()
        self.drop()

    def call(self, *command: Any) -> Any:
        """Run one command and wait for its reply.

        A connection that turns out to be closed is opened again, once: after a restart of the server the first
        command must not fail. A command may so be run twice if the connection broke between its effect and its
        reply. Every script bears that.

        Raises:
            RefusesForNow: Redis takes no writes at present; a connection error too, but nothing was done.
            redis.exceptions.RedisError: Redis is away, or refused the command.
        """
        here = _here()
        if self._busy_in == here:
            # A signal's handler, in the middle of a command of the same thread, whose reply it must not take.
            spare = CommandConnection(self._pool)
            try:
                return spare.call(*command)
            finally:
                spare.drop()
        with self._lock_in(here[0]):
            self._busy_in = here
            try:
                return self._call(command)
            finally:
                self._busy_in = _NOBODY

    def _call(self, command: Sequence[Any]) -> Any:
        fresh = self._connection is None
        try:
            return self._roundtrip(command)
        except RefusesForNow:
            raise
        except RedisConnectionError:
            self.drop()
            if fresh:
                raise
            return self._roundtrip(command)

    def _roundtrip(self, command: Sequence[Any]) -> Any:
        connection = self.connection
        try:
            connection.send_packed_command((self._packed(command),), check_health=False)
            return connection.read_response()
        except (OSError, RedisConnectionError) as error:
            self.drop()
            if isinstance(error, RedisConnectionError):
                raise
            raise RedisConnectionError(str(error)) from error
        except ResponseError as error:
            if not is_passing(error):
                attach_command(error, command)
                raise
            # By its name, the server may be another by now.
            self.drop()
            raise RefusesForNow(str(error)) from error
        except BaseException:
            # A reply left unread would answer the next command.
            self.drop()
            raise

    def _packed(self, command: Sequence[Any]) -> bytes:
        # As in ack_pipeline.py: redis-py's own packer looks at each argument first.
        packed: bytes = pack_command(tuple(command))
        return packed

    def named_refusal(self, error: BaseException, keys: Keys, levels: tuple[str, ...] = ()) -> BaseException:
        """For logs: if a type is what Redis has refused, the error that names the key; else the same error."""
        return describe_refusal(error, self._pool, keys, levels)

    def server(self) -> str:
        """The run of the server at the other end, which ids of its connections belong to; '' if it does not say.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        sock = self.connection._sock
        if sock is None or sock is not self._asked_on:
            try:
                info = self.call("INFO", "server")
            except ResponseError:
                # Not allowed here (ACL, a managed Redis).
                info = b""
            lines = (info.encode() if isinstance(info, str) else info).splitlines()
            found = next((line for line in lines if line.startswith(b"run_id:")), b"")
            self._asked_on, self._server = self.connection._sock, found.partition(b":")[2].decode()
        return self._server

    def client(self) -> str:
        """The connection as ``id server``, which names no other one ever; '' where the server does not say.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        sock = self.connection._sock
        if sock is None or sock is not self._numbered_on:
            server = self.server()
            try:
                number = self.call("CLIENT", "ID")
            except ResponseError:
                number = ""
            self._numbered_on = self.connection._sock
            # If it was opened again meanwhile, the run may be another server's.
            same = self._numbered_on is self._asked_on
            self._client = f"{number} {server}" if number and server and same else ""
        return self._client

    def run(self, script: str | Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one of the scripts; loads it first if the server does not know it."""
        known = script if isinstance(script, Script) else own(script)
        command = ("EVALSHA", known.sha, len(keys), *keys, *args)
        try:
            return unwrap_reply(self.call(*command))
        except NoScriptError:
            self.call("SCRIPT", "LOAD", known.source)
            return unwrap_reply(self.call(*command))
