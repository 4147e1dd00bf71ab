"""Circuit breakers: the same tests in eager mode and on a real worker."""

from __future__ import annotations

from time import monotonic

import pytest
from redis import Redis

from orchestrator import Cancelled, Dead, Handled
from orchestrator.core.admission.breaker import Phase
from orchestrator.core.errors import (
    CircuitOpen,
)
from orchestrator.sending.delivery import CancelResult, Delivery, Status
from tests.apps import flow_app as app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.flow import WAIT_S, heard, let_open_time_pass, trip


def test_a_letter_is_not_replayed_through_an_open_breaker(cluster: Cluster) -> None:
    trip(cluster, "long-fused")
    log = cluster.orchestrator.dead_letters
    chosen = log.query(agent="long-fused")
    count = chosen.count()
    letter = chosen.page(1).letters[0]
    with pytest.raises(CircuitOpen):
        log.replay(letter.id)
    done = chosen.replay()
    assert done.sent == 0
    assert "long-fused" in done.stopped
    assert chosen.count() == count
    assert log.get(letter.id) == letter


def test_a_breaker_opens_lets_one_probe_through_and_closes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.orchestrator.breakers.close("fused")
    began = monotonic()
    with heard("breaker.opened", "breaker.half_open", "breaker.closed") as events:
        trip(cluster)
        with pytest.raises(CircuitOpen) as refused:
            cluster.orchestrator.send("fused", app.Work())
        assert refused.value.recipient == "fused"
        # It has opened meanwhile, for 30 s; another clock has counted them.
        assert 29 - (monotonic() - began) < refused.value.retry_after_s <= 30
        let_open_time_pass(cluster, monkeypatch)
        assert cluster.orchestrator.send("fused", app.Work()).wait(WAIT_S) == Handled("worked")
        assert cluster.orchestrator.send("fused", app.Work()).wait(WAIT_S) == Handled("worked")
    # Where a worker settles, it is the worker that tells what it has noticed.
    here = ["breaker.half_open"] if cluster.has_worker else ["breaker.opened", "breaker.half_open", "breaker.closed"]
    assert [event.name for event in events] == here


def test_a_probe_that_fails_opens_the_breaker_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    trip(cluster)
    let_open_time_pass(cluster, monkeypatch)
    assert isinstance(cluster.orchestrator.send("fused", app.Work(fails=True)).wait(WAIT_S), Dead)
    with pytest.raises(CircuitOpen):
        cluster.orchestrator.send("fused", app.Work())
    let_open_time_pass(cluster, monkeypatch)
    assert cluster.orchestrator.send("fused", app.Work()).wait(WAIT_S) == Handled("worked")


@pytest.mark.slow
def test_the_time_for_which_a_breaker_is_open_passes(cluster: Cluster) -> None:
    """By the clock itself; the other tests move it, or what is on record."""
    orchestrator = cluster.orchestrator
    for _ in range(2):
        assert isinstance(orchestrator.send("brief", app.Work(fails=True)).wait(WAIT_S), Dead)
    assert orchestrator.breakers.state("brief").phase is not Phase.CLOSED

    def sent() -> list[Delivery]:
        try:
            return [orchestrator.send("brief", app.Work())]
        except CircuitOpen:
            return []

    (delivery,) = eventually(sent)
    assert delivery.wait(WAIT_S) == Handled("worked")
    eventually(lambda: orchestrator.breakers.state("brief").phase is Phase.CLOSED)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("on_error", ["dead_letter", "log", "ignore"])
def test_what_its_sender_got_wrong_is_not_the_agents_failure(cluster: Cluster, on_error: str, track: bool) -> None:
    cluster.orchestrator.breakers.close("fused")
    for _ in range(4):
        wrong = app.Work.model_construct(fails=[])  # type: ignore[arg-type]
        delivery = cluster.orchestrator.send("fused", wrong, on_error=on_error, track=track)
        if track:
            outcome = delivery.wait(WAIT_S)
            assert isinstance(outcome, Dead)
            assert outcome.reason == "validation"
    if cluster.has_worker:
        eventually(lambda: cluster.row("fused").pending == 0, WAIT_S)
        with Redis.from_url(cluster.url) as client:
            assert not client.hget(cluster.orchestrator.runtime.store.keys.flow("fused"), "failed_ms")
    assert cluster.orchestrator.send("fused", app.Work()).wait(WAIT_S) == Handled("worked")


def test_a_breaker_is_shared_by_all_senders(redis_cluster: Cluster) -> None:
    other = app.make(redis_cluster.url)
    trip(redis_cluster, "long-fused")
    with pytest.raises(CircuitOpen):
        other.send("long-fused", app.Work())
    other.app.close()


@pytest.mark.parametrize("track", [True, False])
def test_slow_calls_open_a_breaker(cluster: Cluster, track: bool) -> None:
    cluster.orchestrator.breakers.close("sluggish")
    for _ in range(2):
        delivery = cluster.orchestrator.send("sluggish", app.Work(), track=track)
        if track:
            assert isinstance(delivery.wait(WAIT_S), Handled)
    eventually(lambda: cluster.orchestrator.breakers.state("sluggish").phase is Phase.OPEN, WAIT_S)
    with pytest.raises(CircuitOpen):
        cluster.orchestrator.send("sluggish", app.Work())
    assert cluster.row("sluggish").pending == 0


@pytest.mark.parametrize("on_error", ["dead_letter", "ignore"])
@pytest.mark.parametrize("track", [True, False])
def test_failures_of_one_callers_messages_open_a_breaker_for_nobody(
    redis_cluster: Cluster, on_error: str, track: bool
) -> None:
    orchestrator = redis_cluster.orchestrator
    orchestrator.breakers.close("shared")
    for _ in range(4):
        orchestrator.send("shared", app.Work(fails=True), on_error=on_error, track=track)
    eventually(lambda: redis_cluster.row("shared").pending == 0, WAIT_S)
    assert orchestrator.breakers.state("shared").phase is Phase.CLOSED
    handler = orchestrator.app.tasks["shared.Work"]
    handler.apply_async((app.Work(fails=True).model_dump(),), origin="gen7@another-host")
    eventually(lambda: orchestrator.breakers.state("shared").phase is Phase.OPEN, WAIT_S)


def test_messages_wait_behind_an_open_breaker_if_their_sender_asks_for_it(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator
    trip(cluster, "long-fused")
    deliveries = [orchestrator.send("long-fused", app.Work(), when_open="queue") for _ in range(4)]
    with pytest.raises(CircuitOpen):
        orchestrator.send("long-fused", app.Work())
    assert [delivery.outcome() for delivery in deliveries] == [None] * 4
    assert deliveries[1].status() is Status.PENDING
    assert deliveries[2].cancel() is CancelResult.CANCELLED
    assert orchestrator.breakers.isolate("long-fused", why="still at work on it")
    if cluster.has_worker:
        assert cluster.row("long-fused").ready == 3
        (seen,) = [one for one in orchestrator.mailboxes() if one.queue == "long-fused"]
        assert (seen.waiting, seen.deferred) == (3, 3)
    assert orchestrator.breakers.close("long-fused")
    del deliveries[2]
    assert [delivery.wait(WAIT_S) for delivery in deliveries] == [Handled("worked")] * 3
    assert orchestrator.send("long-fused", app.Work(), when_open="queue").wait(WAIT_S) == Handled("worked")
    assert cluster.row("long-fused").balanced


def test_deferred_messages_are_purged_with_their_mailbox(redis_cluster: Cluster) -> None:
    orchestrator = redis_cluster.orchestrator
    trip(redis_cluster, "long-fused")
    delivery = orchestrator.send("long-fused", app.Work(), when_open="queue", idempotency_key="deferred")
    assert orchestrator.send("long-fused", app.Work(), idempotency_key="deferred").id == delivery.id
    with orchestrator.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("long-fused") == 1
    assert delivery.wait(WAIT_S) == Cancelled(by="purge")
    assert redis_cluster.row("long-fused").balanced
    orchestrator.breakers.close("long-fused")


def test_a_message_that_came_too_late_to_a_queue_is_not_its_agents_failure(redis_cluster: Cluster) -> None:
    with Redis.from_url(redis_cluster.url) as client:
        flow = redis_cluster.orchestrator.runtime.store.keys.flow("fused")
        before = client.hget(flow, "failed_ms")
        redis_cluster.orchestrator.app.send_task("fused.Work", args=[{"nonsense": 1}], queue="fused")
        eventually(lambda: redis_cluster.row("fused").pending == 0, WAIT_S)
        assert client.hget(flow, "failed_ms") == before
