"""The state of mailboxes in `agents`: what waits, since when, bound, breaker, and who serves them."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from orchestrator import Agent, Breaker, Mailbox, Message, Orchestrator, Retry, handles, load_settings
from orchestrator.cli.agents.command import agents
from orchestrator.core.admission.breaker import BreakerStatus, Phase
from orchestrator.core.errors import CircuitOpen, InvalidPolicy, UnknownAgent
from orchestrator.maintenance.manager import Manager
from orchestrator.maintenance.unserved import UnservedCheck
from orchestrator.registry.mailboxes import MailboxState
from orchestrator.registry.registry import AgentEntry
from orchestrator.telemetry import Event, attach, detach, events
from tests.apps import shop
from tests.support.command_line import invoke
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


class Work(Message):
    fails: bool = False


class Guarded(Agent):
    """Has a bound and a breaker."""

    name = "guarded"
    mailbox = Mailbox(limit=10, overflow="reject")
    breaker = Breaker(failures=1, window_s=60, open_s=600)
    retry = Retry(max_retries=0)

    @handles(Work)
    def work(self, message: Work) -> None:
        if message.fails:
            raise ConnectionError("away")


class Plain(Agent):
    """Has neither."""

    name = "plain"

    @handles(Work)
    def work(self, message: Work) -> None: ...


def make(url: str = "redis://127.0.0.1:1/0", *, eager: bool = False) -> Orchestrator:
    from celery import Celery

    app = Celery("states", broker=url, set_as_current=False)
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings())
    orchestrator.host(Guarded, Plain)
    return orchestrator


def state(orchestrator: Orchestrator, queue: str) -> MailboxState:
    return next(one for one in orchestrator.mailboxes() if one.queue == queue)


def trip(orchestrator: Orchestrator) -> None:
    """Have the breaker of the guarded agent opened, as failing attempts do."""
    store: Any = orchestrator.runtime.store
    store.client.hset(store.keys.flow("guarded"), mapping={"phase": "open", "until_ms": 4_000_000_000_000})


def test_what_waits_what_is_not_due_and_what_is_held_are_told_apart(redis_url: str) -> None:
    orchestrator = make(redis_url)
    for _ in range(3):
        orchestrator.send("guarded", Work())
    orchestrator.send("guarded", Work(), countdown_s=1000)
    seen = state(orchestrator, "guarded")
    assert (seen.waiting, seen.delayed, seen.held, seen.limit, seen.overflow) == (3, 1, 0, 10, "reject")
    assert seen.oldest_waiting_s is not None
    assert seen.breaker == "closed"
    assert seen.unserved
    with orchestrator.app.connection_for_read() as connection, connection.channel() as channel:
        channel.basic_get("guarded")
        seen = state(orchestrator, "guarded")
        assert (seen.waiting, seen.held) == (2, 1)
    assert state(orchestrator, "guarded").limit == 10


def test_the_oldest_is_the_first_that_nobody_has_claimed_or_that_fell_due(redis_url: str) -> None:
    orchestrator = make(redis_url)
    store: Any = orchestrator.runtime.store
    stream = store.keys.stream("plain", store.levels[1])
    orchestrator.send("plain", Work())
    store.client.delete(stream)
    for ms in (1_000, 2_000, 3_000):
        store.client.xadd(stream, {"m": "{}"}, id=f"{ms}-1")
    store.client.xgroup_create(stream, store.group, "0")
    store.client.xreadgroup(store.group, "w", {stream: ">"}, count=2)
    seconds, micro = store.client.time()
    found = state(orchestrator, "plain")
    assert found.oldest_waiting_s is not None
    assert abs(found.oldest_waiting_s - (seconds + micro / 1e6 - 3)) < 60
    # Due for longer than that, and nobody is there to move it into its stream.
    store.client.zadd(store.keys.delayed("plain"), {"m": 500})
    found = state(orchestrator, "plain")
    assert found.oldest_waiting_s is not None
    assert found.oldest_waiting_s > seconds - 1
    assert (found.waiting, found.delayed) == (2, 0)


def test_a_message_too_large_to_be_read_for_its_age_is_counted_all_the_same(redis_url: str) -> None:
    orchestrator = make(redis_url)
    store: Any = orchestrator.runtime.store
    orchestrator.send("plain", Work())
    stream = store.keys.stream("plain", store.levels[1])
    store.client.delete(stream)
    store.client.xadd(stream, {"m": "x" * 3_000_000})
    found = state(orchestrator, "plain")
    assert (found.waiting, found.oldest_waiting_s) == (1, None)


def test_hundreds_of_mailboxes_are_all_there(redis_url: str) -> None:
    orchestrator = make(redis_url)
    names = {f"queue-{number:03}" for number in range(230)} | {"with:colon", "späte"}
    for name in names:
        orchestrator.app.send_task("x", queue=name)
    assert {one.queue for one in orchestrator.mailboxes() if one.waiting == 1} == names


def test_agents_shows_the_state_and_warns_of_mail_that_nobody_serves(redis_url: str) -> None:
    orchestrator = shop.make(redis_url)
    orchestrator.send("billing", shop.Charge(order_id="1", cents=1))
    orchestrator.app.send_task("x", queue="shiping")
    result = invoke(orchestrator.app, agents)
    assert "Warning: 1 message in billing, which no living worker serves" in result.stderr
    assert "Warning: 1 message in shiping, which no living worker serves" in result.stderr
    assert "nobody" in result.stdout
    assert "monitor-manager" not in result.stdout
    document = json.loads(invoke(orchestrator.app, agents, "--json").stdout)
    (billing,) = [one for one in document["agents"] if one["name"] == "billing"]
    assert (billing["mailbox"]["waiting"], billing["mailbox"]["unserved"]) == (1, True)
    assert {one["queue"] for one in document["mailboxes"] if one["unserved"]} == {"billing", "shiping"}
    with WorkerProcess("tests.apps.shop", redis_url, queues="billing") as worker:
        eventually(lambda: state(orchestrator, "billing").served_by == (worker.incarnation,), 20, worker.log)
        eventually(lambda: state(orchestrator, "billing").waiting == 0, 20, worker.log)
        result = invoke(orchestrator.app, agents)
        assert "billing," not in result.stderr
        assert "1 worker" in result.stdout


def test_a_breaker_is_closed_by_hand(redis_url: str) -> None:
    orchestrator = make(redis_url)
    orchestrator.send("guarded", Work())
    trip(orchestrator)
    seen = state(orchestrator, "guarded")
    assert (seen.breaker, seen.breaker_open_for_s > 0) == ("open", True)
    assert "open for" in invoke(orchestrator.app, agents).stdout
    told: list[Event] = []
    attach(told.append, events.BREAKER_CLOSED)
    try:
        assert invoke(orchestrator.app, agents, "close-breaker", "guarded").stdout == "guarded: breaker closed\n"
    finally:
        detach(told.append)
    assert [event.metadata["agent"] for event in told] == ["guarded"]
    assert state(orchestrator, "guarded").breaker == "closed"
    orchestrator.send("guarded", Work())
    assert orchestrator.breakers.close(Guarded) is False
    assert "was closed already" in invoke(orchestrator.app, agents, "close-breaker", "guarded").stdout


def test_an_isolated_breaker_refuses_every_send_until_it_is_closed_by_hand(redis_url: str) -> None:
    orchestrator = make(redis_url)
    assert orchestrator.breakers.list() == [BreakerStatus("guarded", Phase.CLOSED)]
    said: list[Event] = []
    attach(said.append, events.BREAKER_ISOLATED)
    try:
        # Before any send, and without a worker.
        assert orchestrator.breakers.isolate(Guarded, why="wrong prices") is True
        printed = invoke(orchestrator.app, agents, "isolate-breaker", "guarded", "--why", "wrong\nrates").stdout
    finally:
        detach(said.append)
    assert printed == "guarded: breaker was isolated already; its reason is replaced\n"
    assert [event.metadata for event in said] == [{"agent": "guarded", "why": "wrong prices"}]
    store: Any = orchestrator.runtime.store
    # No time opens it again, and no worker that starts.
    orchestrator.runtime.redis.announce([AgentEntry(name="guarded", queue="guarded", messages=("Work",))])
    store.client.hset(store.keys.flow("guarded"), "until_ms", 1)
    with pytest.raises(CircuitOpen, match=r"isolated until it is closed by hand: 'wrong\\nrates'") as refused:
        orchestrator.send("guarded", Work())
    assert (refused.value.isolated, refused.value.retry_after_s) == ("wrong\nrates", 600)
    assert orchestrator.breakers.state("guarded") == BreakerStatus("guarded", Phase.ISOLATED, why="wrong\nrates")
    assert "isolated: wrong" in invoke(orchestrator.app, agents).stdout
    assert state(orchestrator, "guarded").breaker_isolated == "wrong\nrates"
    assert orchestrator.breakers.close("guarded") is True
    orchestrator.send("guarded", Work())
    assert orchestrator.breakers.list() == [BreakerStatus("guarded", Phase.CLOSED)]


def test_an_isolated_breaker_refuses_in_eager_mode() -> None:
    orchestrator = make(eager=True)
    assert orchestrator.breakers.list() == [BreakerStatus("guarded", Phase.CLOSED)]
    assert orchestrator.breakers.isolate("guarded", why="wrong prices") is True
    assert orchestrator.breakers.isolate("guarded", why="wrong rates") is False
    with pytest.raises(CircuitOpen, match="wrong rates") as refused:
        orchestrator.send("guarded", Work())
    assert (refused.value.isolated, refused.value.retry_after_s) == ("wrong rates", 600)
    assert orchestrator.breakers.state(Guarded) == BreakerStatus("guarded", Phase.ISOLATED, why="wrong rates")
    assert orchestrator.breakers.close("guarded") is True
    orchestrator.send("guarded", Work())


def test_a_breaker_is_closed_by_hand_in_eager_mode() -> None:
    orchestrator = make(eager=True)
    orchestrator.send("guarded", Work(fails=True))
    with pytest.raises(CircuitOpen):
        orchestrator.send("guarded", Work())
    assert orchestrator.breakers.close("guarded") is True
    orchestrator.send("guarded", Work())
    assert orchestrator.breakers.close("guarded") is False


@pytest.mark.parametrize("eager", [False, True])
def test_a_breaker_that_is_not_there_is_named(redis_url: str, eager: bool) -> None:
    orchestrator = make(redis_url, eager=eager)
    with pytest.raises(UnknownAgent, match="gaurded"):
        orchestrator.breakers.close("gaurded")
    with pytest.raises(InvalidPolicy, match="an agent that has a circuit breaker"):
        orchestrator.breakers.close("plain")
    with pytest.raises(UnknownAgent, match="gaurded"):
        orchestrator.breakers.isolate("gaurded", why="typo")
    with pytest.raises(UnknownAgent, match="gaurded"):
        orchestrator.breakers.state("gaurded")
    for ask in (orchestrator.breakers.state, lambda agent: orchestrator.breakers.isolate(agent, why="none there")):
        with pytest.raises(InvalidPolicy, match="an agent that has a circuit breaker"):
            ask("plain")
    for why in ("", " ", "x" * 501, "\ud800", None):
        with pytest.raises(InvalidPolicy, match="a text of 1 to 500 characters"):
            orchestrator.breakers.isolate("guarded", why=why)  # type: ignore[arg-type]
    with pytest.raises(InvalidPolicy, match="an agent's name or an Agent class"):
        orchestrator.breakers.close(7)  # type: ignore[arg-type]
    assert orchestrator.breakers.state("guarded").phase is Phase.CLOSED
    if not eager:
        result = invoke(orchestrator.app, agents, "close-breaker", "gaurded")
        assert (result.exit_code, result.stderr.startswith("Error: unknown agent")) == (2, True)


def test_the_manager_warns_of_an_unserved_mailbox_once_it_is_no_passing_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = MailboxState("billing", waiting=2, oldest_waiting_s=70.0, served_by=("w1",))
    unserved = MailboxState("billing", waiting=2, oldest_waiting_s=70.0)
    later = MailboxState("later", delayed=1)
    own = MailboxState("monitor-manager", waiting=1)
    looks = iter([[unserved, later, own], [served, later, own], [unserved, later, own], [unserved], [unserved]])
    check = UnservedCheck(lambda: next(looks))
    told: list[Event] = []
    attach(told.append, events.MAILBOX_UNSERVED)
    try:
        with caplog.at_level(logging.WARNING, logger="orchestrator.maintenance.unserved"):
            counts = [check.run() for _ in range(5)]
    finally:
        detach(told.append)
    assert counts == [0, 1, 0, 1, 0]
    # Where an earlier test has switched logging of events on, the events are records too.
    own_records = [record for record in caplog.records if record.name == "orchestrator.maintenance.unserved"]
    assert [record.getMessage() for record in own_records] == [
        "1 message in later, which no living worker serves",
        "2 messages in billing, which no living worker serves; the oldest has waited 1m10s",
    ]
    assert [(event.metadata["agent"], event.measurements["waiting"]) for event in told] == [
        ("later", 0),
        ("billing", 2),
    ]


def test_housekeeping_looks_for_unserved_mailboxes(redis_url: str) -> None:
    assert "orchestrator.unserved-mailboxes" in Manager(make(redis_url).runtime).run()
