"""A plain Redis client with the transport's key names and scripts, for the packages above the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeVar

import redis
from kombu import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.core.checks.broker_url import masked
from orchestrator.core.errors import BrokerUnavailable, NotSupervised, UnreadableKey
from orchestrator.core.key_types import type_of
from orchestrator.core.keys import DOORBELL, GROUP, Keys
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import UNREADABLE, is_wrong_call
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.liveness.waiters_sweeper import WaitersSweeper
from orchestrator.transport.options import Options
from orchestrator.transport.redis.broken_keys import as_broken_key, attach_command
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.dataset import DatasetRecord, parse
from orchestrator.transport.redis.patience import sleep_on
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.redis.scripts import Script, sha, source
from orchestrator.transport.transport import Transport

logger = get_logger(__name__)

Answer = TypeVar("Answer")

#: Connections that the threads of a process have at once, unless ``max_connections`` of the transport's options says
#: otherwise.
MOST_CONNECTIONS: Final = 10_000


class _Client(redis.Redis):
    """A client whose errors say to which command they are the reply."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            attach_command(error, args)
            raise


@dataclass(frozen=True, slots=True)
class Store:
    """The Redis of a broker URL, with the transport's key names and scripts."""

    client: redis.Redis
    keys: Keys
    options: Options
    levels: tuple[str, ...]
    pool: Any
    url: str
    broker: Broker = field(default_factory=lambda: Broker(""), compare=False)
    waiters_sweeper: WaitersSweeper | None = field(default=None, compare=False)

    def run(self, script: str | Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script of the transport (by name) or of another package.

        Raises:
            BrokerUnavailable: Redis is away or refused.
        """
        if isinstance(script, str):
            script = Script(source(script), sha(script))
        try:
            try:
                return unwrap_reply(self.client.evalsha(script.sha, len(keys), *keys, *args))
            except NoScriptError:
                self.client.script_load(script.source.decode())
                return unwrap_reply(self.client.evalsha(script.sha, len(keys), *keys, *args))
        except RedisError as error:
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> BrokerUnavailable:
        """What an error of Redis is for users. If a key is of another type than it should be, it names the key."""
        broken = as_broken_key(error, self.client, self.keys, self.levels, self.url)
        return broken or BrokerUnavailable(self.url, error)

    @contextmanager
    def reading(self, key: str) -> Iterator[None]:
        """Take a key's value apart: what something else has written there is an error that names the key.

        Raises:
            UnreadableKey: instead of the error with which the value could not be taken apart. A call with arguments
                that the function does not take is no such error.
        """
        try:
            yield
        except UNREADABLE as error:
            if is_wrong_call(error):
                raise
            raise UnreadableKey(self.url, key, type_of(self.keys, key), error) from error

    def read_or_skip(self, key: str, read: Callable[[], Answer]) -> Answer | None:
        """For lists: what ``read`` makes of a key's value; ``None``, with a line in the log, if it cannot be read."""
        try:
            with self.reading(key):
                return read()
        except UnreadableKey as error:
            logger.error("%s", error)
            return None

    def dataset(self) -> DatasetRecord | None:
        """The data set's identity and known losses; ``None`` if no incarnation has ever registered.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        try:
            fields: Any = self.client.hgetall(self.keys.dataset)
        except RedisError as error:
            raise self.failure(error) from error
        return parse(fields)

    def acknowledge_losses(self) -> None:
        """Record that an operator has seen all losses so far.

        Raises:
            BrokerUnavailable: Redis is away or refused.
        """
        try:
            seconds, micros = self.client.time()
            self.client.hset(self.keys.dataset, "acknowledged_ms", str(seconds * 1000 + micros // 1000))
        except RedisError as error:
            raise self.failure(error) from error

    def ask(self, question: Callable[[Callable[..., Any]], Answer]) -> Answer:
        """Call ``question`` with a function that runs Redis commands on a connection of its own; returns its result.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        wire = CommandConnection(self.pool)
        try:
            return question(wire.call)
        except RedisError as error:
            raise self.failure(error) from error
        finally:
            wire.drop()

    def sleep_on(self, key: str, until: float) -> Any:
        """Wait in Redis as :func:`sleep_on` does, and look whether a sweep is needed if nothing has come.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        found = sleep_on(self.client, key, until)
        if found is None:
            self.look_between_waits(until)
        return found

    def look_between_waits(self, until: float) -> None:
        """Sweep if a death needs it or nobody else looks for the dead; called after a wait in Redis that was in vain.

        Not at the end of the whole wait, at ``until`` by the monotonic clock.
        """
        if self.waiters_sweeper is not None and monotonic() < until:
            self.waiters_sweeper.after_slice(self.run)

    def sweeper(self) -> Sweeper:
        """A sweeper with a connection of its own."""
        pool: Pool = self.pool
        return Sweeper(CommandConnection(pool), self.keys, self.options, self.levels)

    def level_of(self, priority: int | None) -> str:
        """The level of a mailbox for new messages of a priority."""
        own = [level for level in self.levels if level.isdigit()]
        return max((level for level in own if int(level) <= (priority or 0)), key=int, default=own[0])

    def streams(self, queue: str) -> list[str]:
        """The streams of a mailbox, doorbell included."""
        return [self.keys.stream(queue, level) for level in (*self.levels, DOORBELL)]

    @property
    def group(self) -> str:
        """The consumer group."""
        return GROUP


def open_store(connection: Connection) -> Store:
    """The store behind a kombu connection that uses our transport.

    Raises:
        NotSupervised: the connection uses another transport.
        BrokerUnavailable: the broker does not answer.
    """
    if not isinstance(connection.transport, Transport):
        url = masked(connection.as_uri())
        if not connection.password:
            # kombu masks a password that is not there.
            url = url.replace(":**@", "@").replace("://@", "://")
        raise NotSupervised(
            f"broker {url} uses {type(connection.transport).__module__}; "
            "allowed: broker_transport='orchestrator.transport:Transport'"
        )
    url = connection.as_uri()
    try:
        # connection.channel() would retry after a pause; the caller wants an error now.
        channel = connection.transport.create_channel(connection.transport)
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnavailable(url, error) from error
    pool = channel.own_pool()
    if "max_connections" not in (connection.transport_options or {}):
        # kombu's 10 are meant for one channel. Here each thread takes one for as long as it waits.
        pool.max_connections = MOST_CONNECTIONS
    store = Store(
        client=_Client(connection_pool=pool),
        keys=channel.keys,
        options=channel.options,
        levels=channel.levels,
        pool=pool,
        url=url,
        broker=connection.transport.broker,
        waiters_sweeper=WaitersSweeper(pool, channel.keys, channel.options, channel.levels),
    )
    channel.close()
    connection.release()
    return store
