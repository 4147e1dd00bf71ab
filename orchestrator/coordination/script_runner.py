"""Runs the scripts of one package, and commands, on a connection of its own; redis-py's client would take longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.forks import lazy_property
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.scripts import script_of
from orchestrator.transport.store import Store


class ScriptRunner:
    """Runs the scripts of ``package``. The store is opened when the first of them is run."""

    def __init__(self, open_store: Callable[[], Store], package: str) -> None:
        self._open_store = open_store
        self._package = package

    @lazy_property
    def _commands(self) -> CommandConnection:
        return CommandConnection(self._open_store().pool)

    def run(self, call: Call) -> Any:
        """The reply to a call of a script.

        Raises:
            BrokerUnavailable: Redis is away or refuses; whether the script has run is unknown.
        """
        name, keys, args = call
        return self._ask(lambda: self._commands.run(script_of(self._package, name), keys, args))

    def call(self, *command: Any) -> Any:
        """The reply to a command.

        Raises:
            BrokerUnavailable: Redis is away or refuses.
        """
        return self._ask(lambda: self._commands.call(*command))

    def _ask(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (RedisError, OSError) as error:
            raise self._open_store().failure(error) from error
