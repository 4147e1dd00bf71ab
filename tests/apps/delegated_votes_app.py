"""Agents whose vote is the decision of a ballot among others: ``celery -A tests.apps.delegated_votes_app worker``."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, Context, Majority, Message, Orchestrator, Retry, Unanimous, Vote, load_settings, votes

#: Who asks whom. The last two ask each other.
BELOW = {"chief": ("lead-1", "lead-2"), "lead-1": ("m1", "m2", "m3"), "lead-2": ("m4", "m5"), "x": ("y",), "y": ("x",)}


class Plan(Message):
    """A proposal, and who is against it; the one that is named ``stays`` votes once it is told to."""

    key: str
    against: tuple[str, ...] = ()
    stays: str = ""
    timeout_s: float = 20


class Delegate(Agent):
    """Votes as those below it decide."""

    retry = Retry(max_retries=0)

    @votes(Plan)
    def plan(self, proposal: Plan, context: Context) -> Vote:
        note("test:asked", context.agent)
        # One ballot for each plan and delegate: a redelivered vote finds it.
        ballot = context.orchestrator.propose(
            proposal,
            BELOW[context.agent],
            Majority(),
            timeout_s=proposal.timeout_s,
            silent="reject",
            id=f"{proposal.key} below {context.agent}",
        )
        decision = ballot.wait(60)
        return Vote.approve() if decision.accepted else Vote.reject(decision.why)


class Member(Agent):
    """Votes for itself."""

    retry = Retry(max_retries=0)

    @votes(Plan)
    def plan(self, proposal: Plan, context: Context) -> Vote:
        note("test:asked", context.agent)
        if proposal.stays == context.agent:
            client().blpop(["test:go"], timeout=60)
        return Vote.reject("no") if context.agent in proposal.against else Vote.approve()


DELEGATES: tuple[type[Agent], ...] = tuple(type(f"Delegate_{name}", (Delegate,), {"name": name}) for name in BELOW)
MEMBERS: tuple[type[Agent], ...] = tuple(
    type(f"Member_{number}", (Member,), {"name": f"m{number}"}) for number in range(1, 6)
)


def client() -> Any:
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


def note(key: str, value: str) -> None:
    client().rpush(key, value)


def make(url: str | None = None) -> Orchestrator:
    app = Celery("delegating", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    made = Orchestrator(app, settings)
    made.host(*DELEGATES, *MEMBERS)
    return made


def ask(made: Orchestrator, plan: Plan, *delegates: str) -> Any:
    """A ballot among delegates: all of them have to be for it."""
    return made.propose(plan, delegates, Unanimous(), timeout_s=40, silent="reject", id=f"{plan.key} on top")


orchestrator = make()
app = orchestrator.app
