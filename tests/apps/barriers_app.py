"""Agents that meet at barriers, on real workers: ``celery -A tests.apps.barriers_app worker``."""

from __future__ import annotations

import contextlib
import threading

from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, Retry, handles, load_settings
from orchestrator.core.coordination.barrier import Reply, Status
from tests.support.notes_in_redis import own_redis, record

WAIT_S = 60


class Meet(Message):
    """Arrive at this barrier, and wait; returns the generation."""

    barrier: str
    parties: int
    on_death: str = "break"


class MeetForEver(Message):
    """Arrive at this barrier, and react to no time limit."""

    barrier: str


class Leave(Message):
    """Arrive at this barrier, leave a message for the agent itself, and go on when the test pushes to ``test:go``."""

    barrier: str
    parties: int
    waits: bool = False


class Phase2(Message):
    of: str


class Party(Agent):
    name = "party"
    retry = Retry(max_retries=0)

    @handles(Meet)
    def meet(self, message: Meet, context: Context) -> int:
        barrier = context.orchestrator.barrier(message.barrier, message.parties, on_death=message.on_death)  # type: ignore[arg-type]
        arrival = barrier.arrive()
        record("test:met", party=arrival.party, redelivered=context.redelivered)
        return arrival.wait(WAIT_S)

    @handles(MeetForEver, timeout_s=0.5)
    def meet_for_ever(self, message: MeetForEver, context: Context) -> None:
        arrival = context.orchestrator.barrier(message.barrier, 3).arrive()
        while True:
            with contextlib.suppress(BaseException):
                arrival._leave = lambda *_: Reply(Status.WAITING)  # type: ignore[method-assign]
                arrival.wait(WAIT_S)
            with contextlib.suppress(BaseException):
                threading.Event().wait(WAIT_S)

    @handles(Leave)
    def leave(self, message: Leave, context: Context) -> bool:
        barrier = context.orchestrator.barrier(message.barrier, message.parties)
        arrival = barrier.arrive(then=Phase2(of=context.id))
        record("test:met", party=arrival.party, redelivered=context.redelivered)
        if message.waits:
            own_redis().blpop(["test:go"], timeout=WAIT_S)
        return arrival.tripped

    @handles(Phase2)
    def go_on(self, message: Phase2, context: Context) -> None:
        record("test:phase2", of=message.of)


def make(url: str | None = None) -> Orchestrator:
    app = Celery("barriers", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url, lease_s=2)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Party)
    return orchestrator


orchestrator = make()
app = orchestrator.app
