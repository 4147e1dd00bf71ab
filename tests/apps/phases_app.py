"""Agents on workers that a test kills at an exact place: ``celery -A tests.apps.phases_app worker``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery

from orchestrator import (
    Agent,
    Context,
    Decision,
    Expand,
    Message,
    Orchestrator,
    Retry,
    Term,
    Unanimous,
    Vote,
    Workflow,
    WorkflowContext,
    handles,
    load_settings,
    votes,
)
from orchestrator.workflows.records import ControlResult
from tests.support import kill_switch
from tests.support.notes_in_redis import record

VOTERS = ("a", "b", "c")
#: A voter whose mailbox no worker serves.
ABSENT = "absent"


class Do(Message):
    """Do something; the first ``fails`` attempts fail, and ``adds`` steps take its place."""

    what: str
    fails: int = 0
    adds: int = 0


class Undo(Message):
    """Undo something."""

    what: str


class Worker(Agent):
    """Runs steps, and notes when each begins."""

    name = "stepper"
    retry = Retry(max_retries=0)

    @handles(Do)
    def do(self, message: Do, context: Context) -> Any:
        record("test:begun", what=message.what)
        kill_switch.reach("in handler", f"{message.what} {context.id}")
        if context.attempt <= message.fails:
            raise ConnectionError("it fails")
        if message.adds:
            return Expand([("stepper", Do(what=f"{message.what}.{number}")) for number in range(message.adds)])
        return message.what

    @handles(Undo)
    def undo(self, message: Undo, context: Context) -> None:
        record("test:begun", what=f"undo {message.what}")
        kill_switch.reach("in handler", f"undo {message.what}")


class Begin(Message):
    """Start a run of ``steps`` steps."""

    workflow_id: str
    steps: int


class Control(Message):
    """Do something to a run."""

    workflow_id: str
    action: str


class Starter(Agent):
    """Uses workflows, as any process may."""

    name = "starter"

    @handles(Begin)
    def begin(self, message: Begin, context: Context) -> str:
        flow = Workflow("begun")
        first = flow.step("first", Do(what="first"), to="stepper")
        for number in range(1, message.steps):
            flow.step(f"part-{number}", Do(what=f"part {number}"), to="stepper", after=first)
        return context.orchestrator.workflows.start(flow, workflow_id=message.workflow_id).uid

    @handles(Control)
    def control(self, message: Control, context: Context) -> str:
        run = context.orchestrator.workflows.get(message.workflow_id)
        actions: dict[str, Callable[[], ControlResult]] = {
            "cancel": lambda: run.cancel(compensate=True),
            "pause": run.pause,
            "resume": run.resume,
            "post": lambda: run.post("go"),
            "retry": lambda: run.retry("middle"),
        }
        return str(actions[message.action]())


def declare_function(orchestrator: Orchestrator) -> None:
    """A workflow function."""

    @orchestrator.workflow
    def calls(ctx: WorkflowContext) -> list[str]:
        """Calls one after the other, waits, and calls two at once."""
        record("test:executed", number=1)
        first = ctx.call("stepper", Do(what="call 1"))
        ctx.sleep(0.05)
        rest = ctx.gather([("stepper", Do(what=f"call {number}")) for number in (2, 3)])
        kill_switch.reach("in handler", "at the end of the function")
        return [first, *rest]


class Move(Message):
    """A proposal; a text makes it large."""

    key: str
    against: tuple[str, ...] = ()
    text: str = ""


class Propose(Message):
    """Propose this."""

    move: Move
    voters: tuple[str, ...] = VOTERS
    timeout_s: float = 60


class Proposer(Agent):
    name = "proposer"

    @handles(Propose)
    def propose(self, message: Propose, context: Context) -> str:
        move, voters, timeout_s = message.move, list(message.voters), message.timeout_s
        propose = context.orchestrator.propose
        ballot = propose(move, voters, Unanimous(), timeout_s=timeout_s, silent="reject", id=move.key)
        return ballot.id


class Voter(Agent):
    """Votes, and notes what was decided."""

    retry = Retry(max_retries=0)

    @votes(Move)
    def vote(self, proposal: Move, context: Context) -> Vote:
        record("test:asked", voter=self.name, ballot=proposal.key)
        kill_switch.reach("in handler", f"vote {self.name} {proposal.key}")
        return Vote.reject("no") if self.name in proposal.against else Vote.approve()

    def on_decision(self, decision: Decision, context: Context) -> None:
        votes = {name: vote.approves for name, vote in decision.votes.items()}
        fields = {"accepted": decision.accepted, "votes": votes, "missing": dict(decision.missing)}
        record("test:decided", ballot=decision.ballot, voter=self.name, **fields)
        kill_switch.reach("in handler", f"on_decision {self.name} {decision.ballot}")


HOSTED_VOTERS: tuple[type[Agent], ...] = tuple(
    type(f"Voter_{name}", (Voter,), {"name": name}) for name in (*VOTERS, ABSENT)
)


class Arrive(Message):
    """Arrive at a barrier of two, and wait there or leave a message; a text makes that large."""

    barrier: str
    waits: bool = False
    on_death: str = "break"
    timeout_s: float = 60
    text: str = ""


class GoOn(Message):
    of: str
    text: str = ""


class GiveUp(Message):
    of: str


class Party(Agent):
    name = "party"
    retry = Retry(max_retries=0)

    @handles(Arrive)
    def arrive(self, message: Arrive, context: Context) -> int:
        barrier = context.orchestrator.barrier(
            message.barrier,
            2,
            timeout_s=message.timeout_s,
            on_death=message.on_death,  # type: ignore[arg-type]
        )
        record("test:begun", what=context.id)
        kill_switch.reach("in handler", f"arrive {context.id}")
        if message.waits:
            return barrier.arrive().wait(60)
        left = GoOn(of=context.id, text=message.text), GiveUp(of=context.id)
        return barrier.arrive(then=left[0], if_broken=left[1]).generation

    @handles(GoOn)
    def go_on(self, message: GoOn, context: Context) -> None:
        record("test:went_on", of=message.of, delivery=context.id)
        kill_switch.reach("in handler", f"go on {message.of}")

    @handles(GiveUp)
    def give_up(self, message: GiveUp, context: Context) -> None:
        record("test:gave_up", of=message.of, delivery=context.id)
        kill_switch.reach("in handler", f"give up {message.of}")


class Tick(Message):
    number: int


class Cron(Agent):
    name = "cron"
    singleton = True

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> str:
        term = context.term
        record("test:calls", call="tick", number=message.number, term=term and term.number, by=context.incarnation)
        kill_switch.reach("in handler", f"tick {message.number}")
        return "ticked"

    def on_elected(self, term: Term, context: Context) -> str:
        record("test:calls", call="on_elected", number=term.number, leader=term.leader, by=context.incarnation)
        kill_switch.reach("in handler", "on_elected")
        return "elected"

    def on_deposed(self, term: Term, context: Context) -> None:
        record("test:calls", call="on_deposed", number=term.number, leader=term.leader, by=context.incarnation)
        kill_switch.reach("in handler", "on_deposed")


HOSTED: tuple[type[Agent], ...] = (Worker, Starter, Proposer, *HOSTED_VOTERS, Party, Cron)


def make(url: str | None = None) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    app = Celery("phases", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(*HOSTED)
    declare_function(orchestrator)
    return orchestrator


kill_switch.install()
orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
