"""`Runtime`: the list of the parts that belong to one app.

Boot steps, handlers' tasks and the command line use it. Nothing here is part of the public interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.agents.directory import Directory
from orchestrator.core.settings import Settings
from orchestrator.sending.calls.ask import Asker
from orchestrator.sending.calls.caller import Caller
from orchestrator.sending.sender import Sender
from orchestrator.transport.transport import is_supervised
from orchestrator.wiring.interfaces import Interfaces
from orchestrator.wiring.modes import Modes
from orchestrator.wiring.transport_hooks import death_hooks, run_due_work
from orchestrator.worker.configuration import Configuration
from orchestrator.worker.heartbeat_fields import HeartbeatFields
from orchestrator.worker.hidden_fields import HiddenFields
from orchestrator.workflows.steps.running_steps import RunningSteps

if TYPE_CHECKING:
    from orchestrator.eager.eager_mode import EagerMode
    from orchestrator.transport.store import Store
    from orchestrator.wiring.redis_mode import RedisMode
    from orchestrator.workflows.functions.function import WorkflowFunction


class Runtime:
    """The parts of one app."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.directory = Directory(app, lambda: self.modes.announced(), settings)
        self.hidden = HiddenFields(settings, self.directory)
        self.heartbeat_fields = HeartbeatFields(app, self.directory.declared, settings.app_version)
        self.configuration = Configuration(
            app,
            settings,
            self.heartbeat_fields,
            death_hooks(lambda: self.redis),
            lambda: run_due_work(self.redis),
            lambda: self.hidden.names,
        )
        self.modes = Modes(app, settings, self.directory, self.configuration)
        self.sender = Sender(app, self.directory, self.modes.backend)
        self.caller = Caller(self.directory, self.modes.backend, self.sender)
        self.asker = Asker(app, self.directory, self.modes.backend)
        self.steps = RunningSteps(app, self.directory, lambda: self.mode)
        #: The workflow functions that are declared here, by the names of their tasks.
        self.functions: dict[str, WorkflowFunction[..., Any]] = {}
        self.interfaces = Interfaces(app, settings, self.directory, self.sender, self.modes, self.steps)
        self.hidden.hide()

    @property
    def is_supervised(self) -> bool:
        """Whether the app's broker is one that this library supervises.

        Raises:
            InvalidSettings: the broker's URL cannot be used.
        """
        return is_supervised(self.app.conf.broker_transport)

    @property
    def mode(self) -> RedisMode | EagerMode:
        """Eager mode or Redis, as the app's settings say now."""
        return self.modes.current

    @property
    def redis(self) -> RedisMode:
        """The app's parts in Redis, whatever the mode. Nothing connects before it is used."""
        return self.modes.redis

    @property
    def store(self) -> Store:
        """The Redis behind the app's broker URL; see :attr:`orchestrator.wiring.redis_mode.RedisMode.store`."""
        return self.modes.redis.store
