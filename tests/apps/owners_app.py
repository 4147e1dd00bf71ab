"""An agent that says who owns what it acquires, on real workers: ``celery -A tests.apps.owners_app worker``."""

from __future__ import annotations

from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, Retry, handles, load_settings


class Take(Message):
    """Acquire a lease, and leave it to the end of the attempt."""

    name: str


class TakeInSession(Message):
    """Acquire a lease in a session of one's own, and another one after it."""

    name: str


class TakeInTask(Message):
    """Acquire a lease in a task that is run inline, in each way there is."""

    name: str


class LeaveSessionOpen(Message):
    """Open a session, and close it never."""


class Taker(Agent):
    name = "taker"
    retry = Retry(max_retries=0)

    @handles(Take)
    def take(self, message: Take, context: Context) -> str:
        return context.orchestrator.lease(message.name).acquire().owner

    @handles(TakeInSession)
    def take_in_session(self, message: TakeInSession, context: Context) -> list[str]:
        with context.orchestrator.monitors.session() as session, context.orchestrator.lease(message.name) as lease:
            within = [session.id, lease.owner]
        return [*within, context.orchestrator.lease(message.name).acquire().owner]

    @handles(TakeInTask)
    def take_in_task(self, message: TakeInTask, context: Context) -> list[str]:
        task = context.orchestrator.app.tasks["take"]
        return [task(f"{message.name} called"), task.apply([f"{message.name} applied"]).result]

    @handles(LeaveSessionOpen)
    def leave_session_open(self, message: LeaveSessionOpen, context: Context) -> str:
        return context.orchestrator.monitors.session().__enter__().id


def make(url: str | None = None) -> Orchestrator:
    app = Celery("owners", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)

    @app.task(name="take", shared=False)
    def take(name: str) -> str:
        return orchestrator.lease(name).acquire().owner

    orchestrator.host(Taker)
    return orchestrator


orchestrator = make()
app = orchestrator.app
