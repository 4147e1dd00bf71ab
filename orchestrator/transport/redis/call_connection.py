"""A connection on which a request is sent with the wait for its outcome: one packet, so Redis wakes up once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from hiredis import pack_command
from redis.exceptions import RedisError, ResponseError

from orchestrator.core.log import get_logger
from orchestrator.transport.redis.command_connection import CommandConnection, Pool

logger = get_logger(__name__)

#: With less time, no other command is sent.
_LEAST_S: Final = 0.01


class CallConnection(CommandConnection):
    """Runs the script that accepts a request, and then waits for its outcome. For one call at a time."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._wait: bytes = b""
        self._outcome_key = ""
        #: Whether Redis owes the reply to the wait.
        self.is_waiting = False

    def prepare(self, outcome_key: str, wait_s: float) -> None:
        """Have the next script followed by a wait for the outcome that is recorded under this key."""
        self._outcome_key = outcome_key
        self._wait = pack_command(self._waiting(wait_s))

    def _waiting(self, wait_s: float) -> tuple[Any, ...]:
        return "BLMOVE", self._outcome_key, self._outcome_key, "LEFT", "LEFT", f"{wait_s:.3f}"

    def _packed(self, command: Sequence[Any]) -> bytes:
        packed = super()._packed(command)
        return packed + self._wait if command[0] == "EVALSHA" else packed

    def _roundtrip(self, command: Sequence[Any]) -> Any:
        self.is_waiting = False
        try:
            reply = super()._roundtrip(command)
        except ResponseError:
            # The reply to the wait, which nothing will end, would be taken for that to the next command.
            self.drop()
            raise
        if command[0] == "EVALSHA":
            self.is_waiting = type(reply) is bytes
            if not self.is_waiting:
                # It was not accepted, or the reply says more: whoever waits asks anew.
                self.drop()
        return reply

    def outcome(self, until: float, slice_s: float, look: Callable[[float], None]) -> Any:
        """The recorded outcome; ``None`` if there is none until then by the monotonic clock, or Redis is away.

        No command waits for longer than ``slice_s``; after one that was in vain, ``look`` is called with ``until``.
        """
        try:
            raw = self._reply_to_wait() if self.is_waiting else self._wait_again(until, slice_s)
            while raw is None and until - monotonic() > _LEAST_S:
                look(until)
                raw = self._wait_again(until, slice_s)
        except (RedisError, OSError) as error:
            logger.debug("outcome not waited for on this connection: %s", error)
            return None
        return raw

    def _wait_again(self, until: float, slice_s: float) -> Any:
        return self.call(*self._waiting(max(_LEAST_S, min(until - monotonic(), slice_s))))

    def _reply_to_wait(self) -> Any:
        self.is_waiting = False
        try:
            return self.connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            self.drop()
            raise
