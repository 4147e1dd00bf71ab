"""Where monitors are tested: in memory, or on a real Redis with incarnations that nobody runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from celery import Celery

from orchestrator import Agent, Context, Down, Message, Orchestrator, handles, load_settings
from orchestrator.monitors.check import inconsistencies
from orchestrator.monitors.monitors import Monitors
from orchestrator.monitors.redis_monitors import RedisMonitors
from orchestrator.transport.redis import commands
from orchestrator.worker.execution.owner import Owner
from tests.support.eventually import eventually
from tests.support.patient_redis import patient_redis


class Watch(Message):
    target: str
    tag: str = ""


class Watcher(Agent):
    """Monitors what it is told to."""

    name = "watcher"

    @handles(Watch)
    def watch(self, message: Watch, context: Context) -> int:
        return context.monitor(message.target, message.tag)

    def on_down(self, down: Down, context: Context) -> None:
        heard.append(down)


class Target(Agent):
    name = "target"

    @handles(Watch)
    def watch(self, message: Watch) -> None: ...


class Other(Target):
    name = "other"


#: DOWNs that the watcher was told of, in this process.
heard: list[Down] = []


def make(url: str, **settings: Any) -> Orchestrator:
    app = Celery("monitors", broker=url, set_as_current=False)
    settings.setdefault("monitor_origins", "on")
    orchestrator = Orchestrator(app, load_settings(broker_url=url, **settings))
    orchestrator.host(Watcher, Target, Other)
    return orchestrator


class MonitorsUnderTest(Protocol):
    orchestrator: Orchestrator

    @property
    def monitors(self) -> Monitors: ...
    def die(self, agent: str, reason: str = "killed") -> None: ...
    def revive(self, agent: str) -> None: ...
    def incarnation(self, agent: str) -> str: ...
    def watcher(self) -> Owner: ...
    def heard(self) -> list[Down]: ...
    def inconsistencies(self) -> list[str]: ...


class InMemoryUnderTest:
    """Eager mode."""

    def __init__(self) -> None:
        self.orchestrator = make("redis://127.0.0.1:1/0")
        self.orchestrator.app.conf.task_always_eager = True
        self.monitors: Any = self.orchestrator.monitors
        heard.clear()

    def die(self, agent: str, reason: str = "killed") -> None:
        self.monitors.declare_dead(agent, reason)

    def revive(self, agent: str) -> None:
        self.monitors.revive(agent)

    def incarnation(self, agent: str) -> str:
        return str(self.monitors.incarnation(agent))

    def watcher(self) -> Owner:
        return Owner(self.incarnation("watcher"), "watcher")

    def heard(self) -> list[Down]:
        return list(heard)

    def inconsistencies(self) -> list[str]:
        stats = self.monitors.stats()
        return [] if stats.created == stats.active + stats.cleaned else [str(stats)]


class RedisUnderTest:
    """A real Redis. Incarnations hold leases that nobody renews, so these are long: a session of a test sweeps."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.orchestrator = make(url, **{"lease_s": 600, **settings})
        self.store = self.orchestrator.runtime.store
        self.redis = patient_redis(url)
        #: Each reply to a call that changes monitors is lost, so that the call is repeated.
        self.loses_replies = False
        self._run, self.monitors.run = self.monitors.run, self._run_monitors  # type: ignore[method-assign]
        self._ids: dict[str, str] = {}
        for agent in ("watcher", "target", "other"):
            self.revive(agent)

    @property
    def monitors(self) -> RedisMonitors:
        return self.orchestrator.runtime.redis.monitors

    def _run_monitors(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        reply = self._run(name, keys, args)
        if self.loses_replies and name in ("create", "demonitor"):
            return self._run(name, keys, args)
        return reply

    def join(self, agent: str) -> str:
        """One more incarnation of an agent."""
        k = self.store.keys
        fields = {"node": agent, "queues": json.dumps([agent]), "agents": json.dumps([agent])}
        raw, _ = self.store.run(*commands.register(k, f"{agent}@h:1", fields))
        return str(raw.decode())

    def fence(self, incarnation: str, reason: str = "killed") -> None:
        """End an incarnation, and no more."""
        k = self.store.keys
        self.store.run(*commands.fence(k, incarnation, reason, "test"))

    def die(self, agent: str, reason: str = "killed") -> None:
        incarnation = self._ids.pop(agent, None)
        if incarnation is not None:
            self.fence(incarnation, reason)
            eventually(lambda: self._is_cleaned(incarnation))

    def _is_cleaned(self, incarnation: str) -> bool:
        """Sweep once; it may be the turn of a session of the test, and a sweep's time may not be enough."""
        k = self.store.keys
        stood_back = self.orchestrator.runtime.redis.sweep().stood_back
        return not stood_back and not self.redis.exists(k.monitors_on(incarnation), k.monitors_of(incarnation))

    def revive(self, agent: str) -> None:
        if agent not in self._ids:
            self._ids[agent] = self.join(agent)

    def incarnation(self, agent: str) -> str:
        return self._ids[agent]

    def watcher(self) -> Owner:
        return Owner(self.incarnation("watcher"), "watcher")

    def messages(self) -> list[dict[str, Any]]:
        """What lies in the watcher's mailbox."""
        k, store = self.store.keys, self.store
        return [json.loads(f[b"m"]) for _, f in self.redis.xrange(k.stream("watcher", store.levels[1]))]

    def heard(self) -> list[Down]:
        return [Down.from_wire(json.loads(message["body"])[0][0]) for message in self.messages()]

    def inconsistencies(self) -> list[str]:
        return inconsistencies(self.monitors)

    def close(self) -> None:
        self.orchestrator.app.close()
        self.store.client.close()
        self.store.pool.disconnect()
        self.redis.close()


Make = Callable[[], MonitorsUnderTest]
