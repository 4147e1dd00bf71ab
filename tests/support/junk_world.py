"""Something of everything this library keeps in Redis, and what users do with it."""

from __future__ import annotations

import contextlib
import itertools
import json
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from orchestrator import Majority, Orchestrator, Retry, Workflow
from orchestrator.cli.agents.command import agents
from orchestrator.cli.calls import calls
from orchestrator.cli.coordination.ballots import ballots
from orchestrator.cli.coordination.barriers import barriers
from orchestrator.cli.coordination.leases import elections, leases, pools
from orchestrator.cli.dead_letters.group import dead_letters
from orchestrator.cli.ledger import ledger
from orchestrator.cli.monitors import monitors
from orchestrator.cli.schedules.group import schedules
from orchestrator.cli.timeouts import timeouts
from orchestrator.cli.workflows.group import workflows
from orchestrator.core.errors import NotAccepted, OrchestratorError
from orchestrator.core.keys import GROUP
from tests.apps import junk_app
from tests.apps.junk_app import Work
from tests.support.command_line import invoke
from tests.support.eventually import eventually

LISTINGS: tuple[tuple[Any, ...], ...] = (
    *((command,) for command in (agents, ledger, calls, leases, elections, pools, barriers, ballots)),
    *((dead_letters, name) for name in ("list", "groups", "audit", "stats")),
    *((monitors, name) for name in ("list", "stats", "leaks")),
    *((schedules, name) for name in ("list", "history")),
    (timeouts, "list"),
    (workflows, "list"),
)

_numbers = itertools.count()


class World:
    """One of each thing, begun and not ended. ``near`` and ``cold`` are the agents whose keys are overwritten."""

    def __init__(self, url: str) -> None:
        self.orchestrator: Orchestrator = junk_app.make(url)
        self.redis: Any = Redis.from_url(url, socket_timeout=60)
        self.tag = f"w{next(_numbers)}x"
        #: By name, what was accepted.
        self.deliveries: dict[str, Any] = {}
        #: Errors that are not this library's, with what was done.
        self.untyped: list[str] = []

    # -- begin

    def begin(self) -> None:
        """Begin one of each."""
        o = self.orchestrator
        self._session = o.monitors.session()
        self._session.__enter__()
        self._session.monitor("near", tag="t")
        self._lease = o.lease(f"near-{self.tag}").acquire()
        self._lead = o.election(f"near-{self.tag}").campaign()
        self._permit = o.semaphore(f"near-{self.tag}", 2).acquire()
        self._pool = o.pool(f"near-{self.tag}", ["a", "b"])
        self._resource = self._pool.checkout()
        self._barrier = o.barrier(f"near-{self.tag}", parties=2)
        self._barrier.arrive("one", then=self._work("then"), to="near")
        flow = Workflow("near")
        event = flow.wait("event", event="go")
        flow.step("work", self._work("step"), to="near", after=event)
        self._run = o.workflows.start(flow, workflow_id=f"near-{self.tag}")
        o.schedules.add(f"near-{self.tag}", "near", self._work("scheduled"), every_s=1)
        o.timeouts.override("near.Work", 60, for_s=600)
        o.hierarchy("near", {"near": ["far"]})
        self._ballot = o.propose(self._work("ballot"), ["near", "far"], Majority(), timeout_s=30, id=f"near-{self.tag}")
        self._send("near", "delayed", countdown_s=3600)
        self._send("near", "kept", idempotency_key=f"near-{self.tag}")
        self._send("near", "dead", failures=9)
        self._send("near", "held", waits=True)
        self._send("laned", "held", waits=True)
        for agent in ("cold", "chill"):
            self._begin_dead(agent)

    def _begin_dead(self, agent: str) -> None:
        """A worker that has claimed a message of its own."""
        stream, incarnation = f"orc:q:0:{agent}", self._dead(agent)
        self._send(agent, "claimed")
        with contextlib.suppress(ResponseError):
            self.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
        self.redis.xreadgroup(GROUP, incarnation, {stream: ">"})
        record = {"node": incarnation, "host": "h", "pid": 1, "queues": json.dumps([agent]), "agents": "[]"}
        self.redis.hset(f"orc:incarnation:{incarnation}", mapping=record)

    def _dead(self, agent: str) -> str:
        return f"{agent}-{self.tag}@h:1#1"

    def _work(self, what: str, **fields: Any) -> Work:
        return Work(what=f"{self.tag}-{what}", **fields)

    def marks(self) -> list[str]:
        """What is in the names of this world's keys; those that the agents have in all worlds come last."""
        ids = (self.deliveries[name].id for name in ("near held", "near dead", "near delayed"))
        return [self.tag, self._run.uid, self._session.id, *ids, "near", "laned"]

    # -- go on

    def do(self, what: str, act: Callable[[], Any]) -> Any:
        """Do something; an error of this library's is what a user may get."""
        try:
            return act()
        except (OrchestratorError, NotAccepted):
            return None
        except Exception as error:  # noqa: BLE001
            self.untyped.append(f"{what}: {type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}")
            return None

    def _send(self, to: str, what: str, **options: Any) -> None:
        fields = {name: options.pop(name) for name in ("failures", "waits") if name in options}
        send = partial(self.orchestrator.send, to, self._work(what, **fields), **options)
        if (made := self.do(f"send {what} to {to}", send)) is not None:
            self.deliveries[f"{to} {what}"] = made

    def go_on(self) -> None:
        """What users do, whatever something else has written."""
        with contextlib.suppress(RedisError):
            self.redis.hset("orc:sweep", mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
            self.redis.zadd("orc:leases", {self._dead("cold"): 1, self._dead("chill"): 2})
        self._send("far", "sent")
        self._send("far", "retried", failures=1)
        self._send("far", "dead", failures=9)
        self._send("near", "sent")
        self._send("near", "retried", failures=1)
        self._send("near", "failed", failures=9)
        self._send("laned", "sent")
        self.redis.rpush(f"test:go:{self.tag}-held", "1", "1")
        for what, act in self._acts():
            self.do(what, act)
        for command, *arguments in LISTINGS:
            self.do(
                f"$ {command.name} {' '.join(arguments)}", partial(invoke, self.orchestrator.app, command, *arguments)
            )

    def _acts(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        o, name = self.orchestrator, f"near-{self.tag}"
        yield "sweep", self._sweep
        yield "call far", lambda: o.call("far", self._work("called"), timeout_s=3)
        yield "call near", lambda: o.call("near", self._work("called"), timeout_s=0.5)
        again = Retry(max_retries=1)
        yield "call near again", lambda: o.call("near", self._work("called"), timeout_s=0.5, retry=again)
        yield "ask all", lambda: o.ask_all(["near", "far"], self._work("asked"), timeout_s=0.5)
        yield "broadcast", lambda: o.broadcast(["near", "far"], self._work("broadcast"))
        yield "distribute", lambda: o.distribute([self._work("item")], ["near", "far"], idempotency_key=self.tag)
        yield "send again", lambda: o.send("near", self._work("kept"), idempotency_key=name)
        yield "post", lambda: self._run.post("go")
        yield "run", lambda: (self._run.status, self._run.steps, self._run.explain(), self._run.details)
        yield "runs", lambda: list(o.workflows.list())
        yield "arrive", lambda: self._barrier.arrive("two")
        yield "barrier", self._barrier.state
        yield "ballot", lambda: (self._ballot.state(), self._ballot.wait(0.1))
        election = o.election(name)
        yield "last term", election.last_term
        yield "observe", lambda: election.observe(timeout_s=0.05)
        yield "candidates", election.candidates
        yield "resign", self._lead.resign
        yield "campaign", lambda: election.campaign(wait_s=0.05).resign()
        yield "release", self._lease.release
        yield "acquire", lambda: o.lease(name, wait_s=0.05).acquire().release()
        yield "semaphore", lambda: (self._permit.release(), o.semaphore(name, 2).acquire().release())
        yield "pool", lambda: (self._resource.release(), self._pool.checkout().release())
        yield "monitor", lambda: self._session.monitor("far")
        yield "next down", lambda: self._session.next_down(0.02)
        yield "hierarchy", lambda: o.hierarchy("near")
        yield "discover", lambda: o.discover("x")
        yield "mailboxes", o.mailboxes
        yield "data set", o.dataset
        yield "replay", lambda: o.dead_letters.query(agent="near").replay(at_most=2)
        yield "trigger", lambda: o.schedules[name].trigger()
        yield "pause", lambda: o.schedules[name].pause()
        yield "add a schedule", lambda: o.schedules.add(f"{name}-2", "near", self._work("later"), every_s=3600)
        yield "outcomes", lambda: [one.outcome() for one in self.deliveries.values()]

    def _sweep(self) -> None:
        store = self.orchestrator.runtime.store
        try:
            store.sweeper().sweep("test")
        except RedisError as error:
            raise store.failure(error) from error

    # -- what must be so

    def bystanders_go_on(self, *, letters: bool = True) -> bool:
        """Whether what was accepted for ``far`` has ended, and what the second dead worker had is requeued.

        Without ``letters``, no dead letter can be made.
        """
        names = ["far sent", "far retried", *(["far dead"] if letters else [])]
        ended = [name in self.deliveries and self.deliveries[name].outcome() for name in names]
        held = self.redis.xpending_range("orc:q:0:chill", GROUP, "-", "+", 100, self._dead("chill"))
        return all(ended) and not held

    def lost(self, timeout_s: float = 30.0) -> dict[str, str]:
        """With Redis in order again: what was accepted and has no outcome."""
        for name in ("near delayed", "cold claimed", "chill claimed"):
            eventually(lambda name=name: self.deliveries[name].cancel() or True)  # type: ignore[misc]
        lost = {}
        for name, delivery in self.deliveries.items():
            try:
                delivery.wait(timeout_s=timeout_s)
            except OrchestratorError as error:
                lost[name] = f"{type(error).__name__}: {error}"
        return lost

    def close(self) -> None:
        """Remove what would go on."""
        o, name = self.orchestrator, f"near-{self.tag}"
        for act in (
            lambda: o.dead_letters.purge(all=True),
            self._run.cancel,
            lambda: o.schedules[name].remove(),
            lambda: o.schedules[f"{name}-2"].remove(),
            lambda: self._session.__exit__(None, None, None),
        ):
            with contextlib.suppress(OrchestratorError, RedisError, AttributeError):
                act()
        o.app.close()
        self.redis.close()
