"""The Celery app under chaos: ``celery -A chaos.app worker`` serves it. Every task reports to the witness."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from celery import Celery, Task

from chaos import functions, line, redis_record
from chaos.ballots import VOTERS, VoterA, VoterB, VoterC
from chaos.barriers import MUSTER, Muster
from chaos.claimed import watch_claims
from chaos.clock import Clock
from chaos.contended import CHIEF, KEEPER, Chief, Keeper
from chaos.lanes import LANE, Lane
from chaos.owner import end_with_owner
from chaos.placed import Hand, HeavyCrane, LightCrane
from chaos.questions import ASKER, ORACLE, UNDERSTUDY, Asker, Oracle, Understudy
from chaos.steps import GATHER, PART, Steps, gather, part
from chaos.witness import VARIABLE, witness
from orchestrator import Agent, Context, Down, Exponential, Message, Orchestrator, Retry, handles, load_settings
from orchestrator.core.errors import InfrastructureError
from orchestrator.worker.execution.owner import Owner

#: Pauses between attempts. Without jitter, so that the judge knows when an attempt is due.
RETRY = Retry(max_retries=3, backoff=Exponential(initial_s=0.05, factor=2.0, cap_s=0.5, jitter=0.0))

#: Where the load goes.
QUEUES = ("celery", "busy")

#: Where DOWNs go.
SENTRY = "sentry"

#: Where what concerns leases, leaders, asks, barriers and lanes goes.
COORDINATION = (KEEPER, CHIEF, ORACLE, UNDERSTUDY, ASKER, MUSTER, LANE, *VOTERS)

#: This share of the supervised messages makes a monitor.
_WATCHES = 0.3

#: A plain Celery task's name.
WORK = "chaos.work"

#: Where a supervised send's metadata holds the id by which the witness knows it.
ID = "chaos"

#: Long enough for the mark of execution to have left the process.
_POISON_TAKES_S = 0.03


class Work(Message):
    """Takes a while, after it has failed this often."""

    nap_ms: int = 0
    failures: int = 0


class Poison(Message):
    """Kills the process that runs it."""


class Sentry(Agent):
    """Handles the DOWNs of monitors that the other agents create in its name."""

    name = SENTRY

    @handles(Work)
    def work(self, message: Work) -> None:
        """Never called: no message is sent to it."""

    def on_down(self, down: Down, context: Context) -> None:
        """Write the DOWN to the witness."""
        witness().write("told", node=context.worker, ref=down.ref, reason=down.reason)


class Busy(Agent):
    """Handles the supervised part of the load."""

    name = "busy"
    retry = RETRY

    @handles(Work)
    def work(self, message: Work, context: Context) -> int:
        """Nap; fail while there are failures left."""
        where: dict[str, Any] = {"attempt": context.attempt, "node": context.worker}
        message_id = str(context.metadata[ID])
        witness().write("start", message_id, **where)
        if random.random() < _WATCHES:
            _watch_somebody(context)
        time.sleep(message.nap_ms / 1000)
        if context.attempt <= message.failures:
            witness().write("fail", message_id, **where)
            raise ConnectionError(f"attempt {context.attempt} of {message.failures} that fail")
        witness().write("done", message_id, **where)
        return context.attempt

    @handles(Poison)
    def poison(self, message: Poison, context: Context) -> None:
        """Never returns."""
        witness().write("start", str(context.metadata[ID]), attempt=context.attempt, node=context.worker, poison=True)
        time.sleep(_POISON_TAKES_S)
        os.kill(os.getpid(), signal.SIGKILL)


def _watch_somebody(context: Context) -> None:
    """Have this incarnation monitor one that lives, which may be itself."""
    try:
        living = orchestrator.registry.incarnations()
        if living:
            owner = Owner(context.incarnation, SENTRY)
            target = random.choice(living).id
            ref = orchestrator.monitors.monitor(target, owner=owner)
            witness().write("watch", node=context.worker, ref=ref, owner=owner.id, target=target)
    except InfrastructureError:
        # Redis is being killed, or this incarnation was; the load is not to suffer from it.
        return


def work(task: Task, nap_ms: int = 0) -> None:
    """A plain Celery task that takes a while."""
    where: dict[str, Any] = {"attempt": task.request.retries + 1, "node": str(task.request.hostname)}
    witness().write("start", str(task.request.id), **where)
    time.sleep(nap_ms / 1000)
    witness().write("done", str(task.request.id), **where)


def make() -> Orchestrator:
    """The app on the Redis that the environment names."""
    celery = Celery("chaos", set_as_current=False)
    celery.conf.task_ignore_result = True
    celery.conf.worker_hijack_root_logger = True
    orchestrator = Orchestrator(celery, load_settings())
    for name, function in {WORK: work, PART: part, GATHER: gather}.items():
        celery.task(function, name=name, bind=True, shared=False)
    orchestrator.host(Busy, Sentry, Steps, Clock, Keeper, Chief, Oracle, Understudy, Asker, Muster, Lane)
    orchestrator.host(VoterA, VoterB, VoterC, LightCrane, HeavyCrane, Hand)
    functions.declare(orchestrator)
    return orchestrator


if VARIABLE in os.environ:
    # A process of a run; not a test of the judge.
    redis_record.install()
    line.watch_lines()
    watch_claims(QUEUES, ID)
orchestrator = make()
app = orchestrator.app
end_with_owner()
