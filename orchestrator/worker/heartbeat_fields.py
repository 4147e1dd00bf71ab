"""Fields of a worker's heartbeats that the transport does not know: its agents, versions and pool."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from celery import Celery

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.admission.declared_limits import limits_of


class HeartbeatFields:
    """Called for each heartbeat, so it only reads attributes.

    It is one of the transport's options, which Celery's remote control serialises as JSON.
    """

    def __init__(self, app: Celery, declared: Mapping[str, AgentSpec], app_version: str) -> None:
        self._app = app
        self._declared = declared
        self._app_version = app_version
        self._library = version("celery-orchestrator")
        #: The Celery worker of this process, once there is one.
        self.worker: Any = None
        #: By agent, what its declaration limits.
        self._known_limits: dict[str, tuple[AgentSpec, dict[str, Any]]] = {}

    def __call__(self) -> Mapping[str, str]:
        """The fields, as text."""
        consumed = self._app.amqp.queues.consume_from
        hosted = {name: sorted(spec.handlers) for name, spec in sorted(self._declared.items())
                  if spec.queue in consumed}  # fmt: skip
        singletons = [name for name in hosted if self._declared[name].singleton]
        fields = {
            "agents": json.dumps(list(hosted)),
            "messages": json.dumps(hosted),
            "app_version": self._app_version,
            "library_version": self._library,
        }
        if singletons:
            fields["singletons"] = json.dumps(singletons)
        if limits := {name: declared for name in hosted if (declared := self._limits(name))}:
            fields["limits"] = json.dumps(limits)
        pool = getattr(self.worker, "pool", None)
        if pool is not None:
            fields["pool"] = type(pool).__module__.rpartition(".")[2]
            # After a prefork pool has ended it has no size; the worker sends heartbeats until it has left.
            with contextlib.suppress(AttributeError):
                fields["concurrency"] = str(pool.num_processes)
        return fields

    def _limits(self, agent: str) -> dict[str, Any]:
        spec = self._declared[agent]
        known = self._known_limits.get(agent)
        if known is None or known[0] is not spec:
            known = self._known_limits[agent] = spec, limits_of(spec.flow, spec.bulkhead, spec.concurrency)
        return known[1]

    def __json__(self) -> str:
        return "the agents hosted"
