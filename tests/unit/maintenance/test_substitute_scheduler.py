"""A worker's substitute scheduler runs as long as the worker consumes, however fast its connection is found again."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from orchestrator.maintenance.substitute_scheduler import SubstituteScheduler
from tests.support.eventually import eventually


class Service:
    """Stands in for the scheduler's service: sleeps until the test wakes it, and sets its event when it closes."""

    def __init__(self, stopped: threading.Event) -> None:
        self.stopped = stopped
        self.sleeping, self.woken = threading.Event(), threading.Event()

    def tick(self) -> float:
        return 1.0

    def wait(self, wait_s: float) -> None:
        self.sleeping.set()
        self.woken.wait(10)

    def close(self) -> None:
        self.stopped.set()


def test_what_is_started_while_what_was_stopped_still_sleeps_schedules_on() -> None:
    services: list[Service] = []

    def service(*_: Any, stopped: threading.Event, **__: Any) -> Service:
        services.append(Service(stopped))
        return services[-1]

    runtime = SimpleNamespace(redis=SimpleNamespace(scheduling=SimpleNamespace(service=service)))
    scheduler = SubstituteScheduler(runtime, 30)
    scheduler.start()
    eventually(lambda: services and services[0].sleeping.is_set())
    scheduler.stop()
    scheduler.start()
    services[0].woken.set()
    eventually(lambda: len(services) == 2 and services[1].sleeping.is_set())
    scheduler.stop()
    services[1].woken.set()
    eventually(services[1].stopped.is_set)
    scheduler.start()
    eventually(lambda: len(services) == 3 and services[2].sleeping.is_set())
    scheduler.stop()
    services[2].woken.set()
