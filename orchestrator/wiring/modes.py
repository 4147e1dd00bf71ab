"""The two modes of an app: messages are in Redis, or with ``task_always_eager`` in the memory of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from celery import Celery

from orchestrator.agents.directory import Directory
from orchestrator.core.errors import CallerError
from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.settings import Settings
from orchestrator.sending.backend import Backend
from orchestrator.worker.configuration import Configuration, OrchestratedSettings

if TYPE_CHECKING:
    from orchestrator.eager.eager_mode import EagerMode
    from orchestrator.registry.registry import AgentEntry
    from orchestrator.wiring.redis_mode import RedisMode


class Modes:
    """Both modes of one app, each made at its first use. The current one is looked up each time: it may change."""

    def __init__(self, app: Celery, settings: Settings, directory: Directory, configuration: Configuration) -> None:
        self._app = app
        self._settings = settings
        self._directory = directory
        self._configuration = configuration
        #: Held while a mode is made, so that there is one of each, however many threads ask first.
        self._making = ForkSafeLock()
        self._redis: RedisMode | None = None
        self._eager: EagerMode | None = None

    @property
    def is_eager(self) -> bool:
        """Whether sends run inline (Celery's ``task_always_eager``)."""
        conf = self._app.conf
        return conf.is_eager if type(conf) is OrchestratedSettings else bool(conf.task_always_eager)

    @property
    def current(self) -> RedisMode | EagerMode:
        """The mode that the app's settings say now.

        Raises:
            InvalidSettings: the broker's URL was changed after its first use.
        """
        if self.is_eager:
            return self.eager
        redis = self.redis
        redis.refuse_another_broker()
        return redis

    def backend(self) -> Backend:
        """The backend that a send goes to now."""
        return self.current.backend

    @property
    def redis(self) -> RedisMode:
        """The app's parts in Redis. Nothing connects before it is used."""
        if self._redis is not None:
            return self._redis
        from orchestrator.wiring.redis_mode import RedisMode

        with self._making:
            if self._redis is None:
                self._redis = RedisMode(self._app, self._settings, self._directory, self._configuration)
            return self._redis

    @property
    def eager(self) -> EagerMode:
        """The app's parts in memory."""
        if (eager := self._eager) is not None:
            return eager
        from orchestrator.eager.eager_mode import EagerMode

        with self._making:
            if self._eager is None:
                self._eager = EagerMode(self._app, self._settings, self._directory)
            return self._eager

    def reset_eager(self) -> None:
        """Begin eager mode again with nothing in memory.

        Raises:
            CallerError: the app is not in eager mode.
        """
        if not self.is_eager:
            raise CallerError("reset() is for eager mode; allowed: an app with task_always_eager")
        self._eager = None

    def announced(self) -> Mapping[str, AgentEntry]:
        """The agents that workers have entered in the registry; none in eager mode.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return {} if self.is_eager else self.redis.registry.agents()
