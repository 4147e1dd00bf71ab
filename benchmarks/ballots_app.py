"""A hundred voters: ``celery -A benchmarks.ballots_app worker``."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, Decision, Message, Orchestrator, Vote, load_settings, votes


class Move(Message):
    """Vote on this."""

    n: int


class Voter(Agent):
    """Approves, and says when."""

    @votes(Move)
    def move(self, proposal: Move) -> Vote:
        _records().hset(f"bench:votes:{proposal.n}", self.name, monotonic())
        return Vote.approve()

    def on_decision(self, decision: Decision) -> None: ...


VOTERS = [f"voter-{number}" for number in range(100)]

_client: Any = None


def _records() -> Any:
    global _client
    if _client is None:
        _client = redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"])
    return _client


def make(url: str | None = None) -> Orchestrator:
    """The app, of a worker or of a proposer."""
    app = Celery("voters", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(*[type(f"Voter{number}", (Voter,), {"name": name}) for number, name in enumerate(VOTERS)])
    return orchestrator


if "ORCHESTRATOR_BROKER_URL" in os.environ:
    orchestrator = make()
    app = orchestrator.app
