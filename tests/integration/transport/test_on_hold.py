"""A mailbox on hold: accepted and counted, and not claimed by the incarnations of one host."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from orchestrator import AgentDown, Mailbox, Orchestrator, load_settings
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.registry.gauges import read_gauges
from orchestrator.telemetry import Event, attach, detach
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.options import Options
from orchestrator.transport.reader import Reader
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store
from tests.apps.supervised_app import Counter, Work
from tests.support.eventually import eventually

QUEUE, HOST = "counter", "here"


@pytest.fixture
def orchestrator(redis_url) -> Orchestrator:
    sender = Orchestrator(
        Celery("supervised", broker=redis_url, set_as_current=False), load_settings(broker_url=redis_url)
    )
    sender.host(Counter)
    return sender


@pytest.fixture
def store(orchestrator) -> Store:
    store: Store = orchestrator.runtime.store
    return store


@pytest.fixture
def emitted() -> Iterator[list[Event]]:
    seen: list[Event] = []
    attach(seen.append)
    yield seen
    detach(seen.append)


def register(store: Store, node: str, queues: list[str]) -> str:
    fields = {"node": node, "queues": json.dumps(queues), "agents": "[]"}
    raw, _ = store.run(*commands.register(store.keys, f"{node}:17", fields))
    return str(raw.decode())


def hold(store: Store, host: str = HOST) -> int:
    return int(store.run(*commands.hold_mailbox(store.keys, QUEUE, host)))


def claim(store: Store, incarnation: str) -> list[Any]:
    return list(store.run(*commands.claim(store.keys, [QUEUE], store.levels, incarnation, 10, leased=True)))


def test_what_a_living_incarnation_serves_is_not_put_on_hold(store):
    register(store, "other@elsewhere", [QUEUE])
    assert hold(store) == 0


def test_its_host_claims_nothing_and_the_ledger_has_a_column_for_it(store, orchestrator):
    assert hold(store) == 1
    orchestrator.send(QUEUE, Work())
    orchestrator.send(QUEUE, Work(), countdown_s=60)
    mine = register(store, "counter@here", [QUEUE])

    ((wait_ms,),) = claim(store, mine)
    assert wait_ms < -9
    (row,) = orchestrator.ledger()
    assert (row.pending, row.on_hold, row.lost) == (2, 2, 0)


def test_states_and_gauges_of_mailboxes_show_it(store, orchestrator):
    hold(store)
    orchestrator.send(QUEUE, Work())
    orchestrator.send(QUEUE, Work(), countdown_s=60)
    orchestrator.app.send_task("other", queue="other")

    def shown() -> dict[str, float]:
        gauges = {gauge.name: gauge.values for gauge in read_gauges(store, orchestrator.registry)}
        return dict(gauges["mailbox_on_hold"])

    assert {state.queue: state.on_hold_for for state in orchestrator.mailboxes()} == {QUEUE: HOST, "other": ""}
    assert shown() == {QUEUE: 2, "other": 0}
    store.run(*commands.release_mailbox(store.keys, QUEUE, HOST))
    assert shown() == {QUEUE: 0, "other": 0}


def test_a_release_lets_it_claim(store, orchestrator):
    hold(store)
    orchestrator.send(QUEUE, Work())
    mine = register(store, "counter@here", [QUEUE])
    assert store.run(*commands.release_mailbox(store.keys, QUEUE, "elsewhere")) == 0
    assert len(claim(store, mine)) == 1
    assert store.run(*commands.release_mailbox(store.keys, QUEUE, HOST)) == 1

    assert len(claim(store, mine)) == 5
    (row,) = orchestrator.ledger()
    assert (row.held, row.on_hold) == (1, 0)


def test_a_claim_from_another_host_ends_it(store, orchestrator):
    hold(store)
    orchestrator.send(QUEUE, Work())
    other = register(store, "counter@elsewhere", [QUEUE])

    assert len(claim(store, other)) == 5
    (row,) = orchestrator.ledger()
    assert row.on_hold == 0


def test_events_say_when_it_is_put_on_hold_and_released(store, emitted):
    hold(store)
    hold(store)
    for host in ("elsewhere", HOST, HOST):
        store.run(*commands.release_mailbox(store.keys, QUEUE, host))

    seen = [event for event in emitted if event.name.startswith("mailbox.")]
    assert [event.name for event in seen] == ["mailbox.held", "mailbox.released"]
    assert [event.metadata for event in seen] == [{"agent": QUEUE, "host": HOST}] * 2


@pytest.mark.parametrize("how", ["consumes", "gets one", "gets one of none"])
def test_an_event_says_when_the_claim_of_another_host_ends_it(store, orchestrator, emitted, how):
    hold(store)
    if how != "gets one of none":
        orchestrator.send(QUEUE, Work())
    with orchestrator.app.connection() as connection, connection.channel() as channel:
        if how == "consumes":
            came: list[Any] = []
            with connection.Consumer(Queue(QUEUE), callbacks=[lambda *got: came.append(got)], channel=channel):
                eventually(lambda: drained(connection, came))
        else:
            assert (channel.basic_get(QUEUE) is None) is (how == "gets one of none")
    PROCESS_INCARNATIONS.leave_all()

    seen = [event for event in emitted if event.name == "mailbox.released"]
    assert [event.metadata for event in seen] == [{"agent": QUEUE, "host": HOST}]
    assert not store.client.hexists(store.keys.flow(QUEUE), "on_hold")


def test_who_reads_without_a_lease_gets_nothing_of_it_and_does_not_end_it(store, orchestrator, emitted):
    """Regression: a reader that acknowledges nothing, and so serves no mailbox, ended the hold."""
    hold(store)
    orchestrator.send(QUEUE, Work())
    came: list[Any] = []
    with (
        orchestrator.app.connection() as connection,
        connection.channel() as channel,
        connection.Consumer(Queue(QUEUE), callbacks=[lambda *got: came.append(got)], no_ack=True, channel=channel),
    ):
        assert channel.basic_get(QUEUE, no_ack=True) is None
        assert drained(connection, came) == []
        assert store.client.hget(store.keys.flow(QUEUE), "on_hold") == HOST.encode()
        assert [event.name for event in emitted if event.name == "mailbox.released"] == []
        store.run(*commands.release_mailbox(store.keys, QUEUE, HOST))
        eventually(lambda: drained(connection, came))


def drained(connection: Any, came: list[Any]) -> list[Any]:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.2)
    return came


def test_who_wants_no_waiting_is_refused(store, orchestrator):
    hold(store)

    with pytest.raises(AgentDown):
        orchestrator.send(QUEUE, Work(), when_down="error")


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("flow", [Flow(mailbox=Mailbox(limit=5)), Flow()], ids=["bound", "none"])
def test_who_declares_flow_control_does_not_end_it(store, flow, serves):
    hold(store)
    declare_flow(store, QUEUE, flow, serves=serves)
    assert store.client.hget(store.keys.flow(QUEUE), "on_hold") == HOST.encode()
    assert bool(store.client.hget(store.keys.flow(QUEUE), "limit")) is (flow.mailbox is not None)


def test_a_reader_sleeps_at_the_doorbell_alone(store):
    reader = Reader(store.keys, store.levels, Options())
    reader.claim([QUEUE], "me", 1, 0, leased=False)
    reader.read([[-10 - 4000]])
    assert (reader.is_on_hold, reader.due_ms) == (True, 4000)
    streams = store.streams(QUEUE)
    command = reader.sleep(streams, "me", 1000)
    assert command[command.index("STREAMS") + 1 :] == (store.keys.stream(QUEUE, "bell"), ">")
    assert command[command.index("BLOCK") + 1] == 200

    reader.claim([QUEUE], "me", 1, 0, leased=False)
    reader.read([-1])
    assert (reader.is_on_hold, reader.due_ms) == (False, -1)
    assert len(reader.sleep(streams, "me", 1000)) > len(command)
