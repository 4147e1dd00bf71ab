"""Agents that vote, on real workers or in eager mode: ``celery -A tests.apps.ballots_app worker``."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import redis
from celery import Celery

from orchestrator import (
    Agent,
    Breaker,
    Context,
    Decision,
    Mailbox,
    Message,
    Orchestrator,
    Retry,
    Vote,
    handles,
    load_settings,
    votes,
)

VOTERS = ["a", "b", "c"]

#: What eager mode has noted, by key.
noted: dict[str, list[Any]] = {}


class Scale(Message):
    """A proposal, and what each voter says to it: approve, reject, raise, nothing, wait or die."""

    n: int
    says: dict[str, str]


def says(**votes: str) -> Scale:
    """What the voters a, b and c say to it; those that are not named approve."""
    return Scale(n=3, says={name: votes.get(name, "approve") for name in VOTERS})


class Fail(Message):
    """Fail at once."""


class Voter(Agent):
    """Votes as it is told, and notes the decision."""

    retry = Retry(max_retries=0)

    @votes(Scale)
    def scale(self, proposal: Scale, context: Context) -> Vote:
        note(context, f"test:asked:{self.name}", proposal.n)
        match proposal.says[self.name]:
            case "approve":
                return Vote.approve()
            case "reject":
                return Vote.reject(f"no memory for {proposal.n}")
            case "raise":
                raise ConnectionError("the voter cannot say")
            case "wait":
                client().blpop(["test:go"], timeout=60)
            case "die" if not context.redelivered:
                os.kill(os.getpid(), signal.SIGKILL)
            case "nothing":
                return "yes"  # type: ignore[return-value]
        return Vote.approve("in the end")

    @handles(Fail)
    def fail(self, message: Fail) -> None:
        raise ConnectionError

    def on_decision(self, decision: Decision, context: Context) -> None:
        fields = {"ballot": decision.ballot, "proposal": dict(decision.proposal), "accepted": decision.accepted}
        said = {name: [vote.approves, vote.why] for name, vote in decision.votes.items()}
        note(context, f"test:decided:{self.name}", {**fields, "votes": said, "missing": dict(decision.missing)})


class A(Voter):
    name = "a"


class B(Voter):
    name = "b"


class C(Voter):
    name = "c"


class Full(Voter):
    """Takes one message, and no worker serves it."""

    name = "full"
    mailbox = Mailbox(limit=1)


class Open(Voter):
    name = "open"
    breaker = Breaker(failures=1, open_s=600)


class Quiet(Agent):
    """Votes, and wants to know nothing of the decision."""

    name = "quiet"

    @votes(Scale)
    def scale(self, proposal: Scale) -> Vote:
        return Vote.approve()


class Bystander(Agent):
    name = "bystander"

    @handles(Fail)
    def fail(self, message: Fail) -> None: ...


HOSTED = (A, B, C, Full, Open, Quiet, Bystander)


def client() -> Any:
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


def note(context: Context, key: str, value: Any) -> None:
    if context.orchestrator.eager:
        noted.setdefault(key, []).append(value)
    else:
        client().rpush(key, json.dumps(value))


def make(url: str | None = None, *, eager: bool = False) -> Orchestrator:
    app = Celery("ballots", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(*HOSTED)
    return orchestrator


orchestrator = make()
app = orchestrator.app
