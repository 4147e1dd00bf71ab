"""Shared by the parts of the monitors in Redis: the store, their scripts, and one way to report Redis' absence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from redis.exceptions import RedisError

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.forks import lazy_property
from orchestrator.monitors.commands import DownSending
from orchestrator.monitors.envelope import supervision_json, template
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.scripts import Script, script_of
from orchestrator.transport.store import Store

T = TypeVar("T")

#: Monitors that one script call creates or judges, so that none holds Redis for more than a few milliseconds.
BATCH = 200

#: Entries that one step of a scan reads.
PAGE = 500


def script(name: str) -> Script:
    """One of the scripts beside this file."""
    return script_of("orchestrator.monitors", name)


class RedisMonitorCalls:
    """Base of the classes that monitors in Redis consist of. The store is opened when it is first needed."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def store(self) -> Store:
        """The store that the monitors are in."""
        return self._open_store()

    @lazy_property
    def down_sending(self) -> DownSending:
        """The parameters with which scripts send DOWNs."""
        return DownSending(template(), self.store.levels[1], supervision_json(Supervision(track=False)))

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run one of the scripts beside this file.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        return self._call(lambda: self._commands.run(script(name), keys, args))

    @lazy_property
    def _commands(self) -> CommandConnection:
        # redis-py's client takes more time than the script that creates a monitor.
        return CommandConnection(self.store.pool)

    def _call(self, command: Callable[[], T]) -> T:
        try:
            return command()
        except (RedisError, OSError) as error:
            raise self.store.failure(error) from error
