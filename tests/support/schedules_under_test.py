"""Schedules in a Redis, and schedulers that a test moves step by step."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import encode_definition
from orchestrator.core.schedules.rule import begin
from orchestrator.core.schedules.state import Decision
from orchestrator.core.schedules.triggers import Interval
from orchestrator.core.schedules.values import AgentRecipient
from orchestrator.core.settings import load_settings
from orchestrator.schedules.declared.static_schedules import StaticSchedules
from orchestrator.schedules.firing.bell import Bell
from orchestrator.schedules.firing.fire_writer import FireWriter
from orchestrator.schedules.firing.one_pass import Firing
from orchestrator.schedules.firing.service import ScheduleService
from orchestrator.schedules.redis import scripts
from orchestrator.schedules.redis.stored_state import change_of
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.lost_answers import Callers


class Reconcile(Message):
    """A message that schedules send."""

    day: int = 0


class Ledgers(Agent):
    """An agent that no worker hosts: its messages wait to be counted."""

    name = "ledgers"

    @handles(Reconcile)
    def reconcile(self, message: Reconcile) -> None:
        """Do nothing."""


def scheduling_app(redis_url: str, **settings: Any) -> Orchestrator:
    """An app with an agent and a task."""
    app = Celery("scheduling", set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=redis_url, **settings))
    orchestrator.host(Ledgers)

    @app.task(name="scheduling.poll", shared=False)
    def poll(number: int = 0) -> None:
        """Do nothing."""

    app.finalize()
    return orchestrator


class Schedules:
    """The schedules of one Redis, as a test declares them and counts their messages."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.orchestrator = orchestrator
        self.app = orchestrator.app
        self.store = orchestrator.runtime.store
        self.keys = self.store.keys
        self.redis: Any = self.store.client

    def now_ms(self) -> int:
        """Redis' time."""
        seconds, micros = self.redis.time()
        return int(seconds * 1000 + micros // 1000)

    def declare(
        self, name: str = "nightly", *, due_s: float = 0.0, every_s: float = 60.0, owner: str = "", **fields: Any
    ) -> None:
        """Add a schedule whose first time was ``due_s`` seconds ago."""
        fields.setdefault("recipient", AgentRecipient("ledgers", "Reconcile", {"day": 1}))
        fields.setdefault("trigger", Interval(round(every_s * 1000)))
        definition = ScheduleDefinition(id=name, **fields)
        state = begin(definition, self.now_ms() - round((every_s + due_s) * 1000))
        one = scripts.Declaration(
            name, owner, encode_definition(definition), state.due_ms, change=change_of(Decision(state)), mode="add"
        )
        attempt = Callers().attempt(self.keys)
        call = scripts.declare_schedules(self.keys, [one], most=1000, most_history=1000, attempt=attempt)
        ((_, status),) = self.store.run(*call)
        assert status == b"added"

    def scheduler(self, name: str = "a", *, stale_s: float = 0.0, url: str = "") -> ScheduleService:
        """A scheduler with connections of its own."""
        store = self.store if not url else scheduling_app(url).runtime.store
        stopped = threading.Event()
        firing = Firing(
            CommandConnection(store.pool),
            self.keys,
            FireWriter(self.app, self.orchestrator.runtime.directory, ()),
            name,
            most_history=1000,
            next_after_of=lambda _: None,
        )
        bell = Bell(store.pool, self.keys.schedules_bell, stopped)
        writer: Any = None
        of_code = StaticSchedules("app", lambda: store, writer, name)
        return ScheduleService(
            firing, bell, name, stale_s=stale_s, declare=lambda: None, count=of_code.count, stopped=stopped
        )

    def state(self, name: str = "nightly") -> dict[str, str]:
        """The fields of a schedule's state."""
        return {k.decode(): v.decode() for k, v in self.redis.hgetall(self.keys.schedule(name)).items()}

    def ledger(self) -> dict[str, int]:
        """The totals of all fires."""
        return {k.decode(): int(v) for k, v in self.redis.hgetall(self.keys.schedule_ledger).items()}

    def is_balanced(self) -> bool:
        """Whether each due time became something."""
        of = self.ledger()
        return of.get("due", 0) == sum(of.get(name, 0) for name in ("fired", "coalesced", "missed", "skipped"))

    def messages(self, queue: str = "ledgers") -> list[dict[str, Any]]:
        """The messages in a mailbox."""
        entries = self.redis.xrange(self.keys.stream(queue, self.store.levels[1]))
        return [json.loads(fields[b"m"]) for _, fields in entries]

    def ids(self, queue: str = "ledgers") -> list[str]:
        """The ids of the deliveries in a mailbox."""
        return [message["headers"]["id"] for message in self.messages(queue)]

    def history(self) -> list[dict[str, str]]:
        """What became of each due time."""
        entries = self.redis.xrange(self.keys.schedule_fires)
        return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in entries]


def settles(service: ScheduleService, until: Callable[[], bool], ticks: int = 20) -> bool:
    """Tick until something holds."""
    for _ in range(ticks):
        if until():
            return True
        service.tick()
    return until()
