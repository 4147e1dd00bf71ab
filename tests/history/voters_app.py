"""Voters who change their minds, and write down what they are told: ``celery -A tests.history.voters_app worker``."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from celery import Celery

from orchestrator import Agent, Decision, Message, Orchestrator, Retry, Vote, load_settings, votes
from tests.history.log import Log

VOTERS = ("a", "b", "c")


class Move(Message):
    """A proposal."""

    n: int


class Voter(Agent):
    """Votes in some way, the next time in another: whoever counts a vote twice decides otherwise."""

    retry = Retry(max_retries=0)

    @votes(Move)
    def move(self, proposal: Move) -> Vote:
        threading.Event().wait(random.random() * 0.1)
        if random.random() < 0.1:
            raise ConnectionError("cannot say")
        return Vote.approve() if random.random() < 0.5 else Vote.reject(f"no, {random.random()}")

    def on_decision(self, decision: Decision) -> None:
        number = log.call(decision.ballot, "read", self.name)
        log.note(number=number, result=what(decision))


class A(Voter):
    name = "a"


class B(Voter):
    name = "b"


class C(Voter):
    name = "c"


def what(decision: Decision) -> tuple[str, str | None]:
    """All of a decision, as text; and what it was cancelled for, if it was."""
    voted = sorted((name, vote.approves, vote.why) for name, vote in decision.votes.items())
    all_of_it = decision.accepted, decision.why, decision.decided_s, voted, sorted(decision.missing.items())
    cancelled_for = decision.why.partition("; ")[0].removeprefix("cancelled: ")
    return str(all_of_it), cancelled_for if decision.how == "cancelled" else None


def make(url: str | None = None) -> Orchestrator:
    """An app that knows the voters."""
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app = Celery("voters", broker=settings.broker_url.get_secret_value(), set_as_current=False)
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(A, B, C)
    return orchestrator


if "HISTORY_FOLDER" in os.environ:
    _name = os.environ["HISTORY_PROCESS"]
    log = Log(Path(os.environ["HISTORY_FOLDER"]) / f"{_name}-{os.getpid()}.jsonl", f"{_name}-{os.getpid()}")
    orchestrator = make()
    app = orchestrator.app
