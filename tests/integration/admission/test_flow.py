"""Broadcasts, many messages, idempotency keys and fencing tokens: the same tests in eager mode and on a real worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kombu.utils.uuid import uuid
from redis import Redis

from orchestrator import Constant, Dead, Handled, Message, Refusal, Retry
from orchestrator.core.errors import (
    AgentDown,
    BroadcastRefused,
    InvalidPolicy,
    SendFailed,
    UnknownAgent,
    UnknownMessage,
)
from tests.apps import flow_app as app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.flow import WAIT_S, heard, trip

# -- broadcasts


def test_best_effort_reaches_all_who_can_take_it(cluster: Cluster) -> None:
    with heard("broadcast.sent") as events:
        report = cluster.orchestrator.broadcast(["eu", app.America], app.Reprice(), strategy="best_effort")
    assert report.wait(WAIT_S) == {"eu": Handled("eu"), "us": Handled("us")}
    assert [receipt.recipient for receipt in report.receipts] == ["eu", "us"]
    assert report.refused == {}
    (event,) = events
    assert (event.measurements["accepted"], event.measurements["refused"]) == (2, 0)
    assert event.metadata == {"id": report.id, "message": "Reprice", "strategy": "best_effort"}


def test_best_effort_leaves_out_who_cannot_and_says_so(cluster: Cluster) -> None:
    trip(cluster, "long-fused")
    report = cluster.orchestrator.broadcast(["eu", "long-fused"], app.Reprice())
    assert report.wait(WAIT_S) == {"eu": Handled("eu"), "long-fused": Refusal.OPEN}
    assert set(report.deliveries) == {"eu"}


def test_all_or_nothing_reaches_all(cluster: Cluster) -> None:
    report = cluster.orchestrator.broadcast(["eu", "us"], app.Reprice(), strategy="all_or_nothing")
    assert report.wait(WAIT_S) == {"eu": Handled("eu"), "us": Handled("us")}


def test_all_or_nothing_is_stopped_by_one_before_anything_is_sent(cluster: Cluster) -> None:
    if not cluster.has_worker:
        trip(cluster, "long-fused")
    stopped_by, why = ("asia", "down") if cluster.has_worker else ("long-fused", "open")
    before = cluster.row("eu").accepted
    with heard("broadcast.sent", "broadcast.refused") as events, pytest.raises(BroadcastRefused) as refused:
        cluster.orchestrator.broadcast(["eu", stopped_by, "us"], app.Reprice(), strategy="all_or_nothing")
    assert [(e.name, e.measurements["refused"], e.metadata["message"], e.metadata["strategy"]) for e in events] == [
        ("broadcast.refused", 1, "Reprice", "all_or_nothing")
    ]
    assert refused.value.members == {stopped_by: why}
    assert stopped_by in str(refused.value)
    assert cluster.row("eu").accepted == before


def test_at_least_one_is_content_with_one(cluster: Cluster) -> None:
    trip(cluster, "long-fused")
    report = cluster.orchestrator.broadcast(["long-fused", "us"], app.Reprice(), strategy="at_least_one")
    assert report.wait(WAIT_S) == {"long-fused": Refusal.OPEN, "us": Handled("us")}


def test_at_least_one_is_not_content_with_none(cluster: Cluster) -> None:
    trip(cluster, "long-fused")
    with heard("broadcast.sent", "broadcast.refused") as events, pytest.raises(BroadcastRefused) as refused:
        cluster.orchestrator.broadcast(["long-fused"], app.Reprice(), strategy="at_least_one")
    assert [(e.name, e.measurements["refused"], e.metadata["strategy"]) for e in events] == [
        ("broadcast.refused", 1, "at_least_one")
    ]
    assert refused.value.members == {"long-fused": "open"}


def test_who_handled_a_copy_is_compensated_when_anothers_dies(cluster: Cluster) -> None:
    before = cluster.row("eu"), cluster.row("us")
    report = cluster.orchestrator.broadcast(
        ["eu", "us"], app.Reprice(fails_at="us"), strategy="all_or_nothing", compensate=app.Undo()
    )
    outcomes = report.wait(WAIT_S)
    assert outcomes["eu"] == Handled("eu")
    assert isinstance(outcomes["us"], Dead)
    eventually(lambda: cluster.row("eu").handled == before[0].handled + 2, WAIT_S)
    eventually(lambda: cluster.row("us").pending == 0, WAIT_S)
    assert cluster.row("us").accepted == before[1].accepted + 1, "who failed has nothing to undo"
    assert all(row.balanced for row in cluster.orchestrator.ledger())


def test_who_handles_a_copy_that_died_and_was_replayed_is_compensated_too(cluster: Cluster) -> None:
    """Regression: nothing undid what it did, though all the others were compensated."""
    report = cluster.orchestrator.broadcast(["eu", "us"], app.Reprice(fails_at="us"), compensate=app.Undo())
    outcome = report.wait(WAIT_S)["us"]
    assert isinstance(outcome, Dead)
    assert outcome.letter_id is not None
    eventually(lambda: cluster.row("us").pending == 0, WAIT_S)
    before, log = cluster.row("us").handled, cluster.orchestrator.dead_letters
    us = report.receipts[1].delivery
    assert us is not None

    def letters() -> list[str]:
        return [letter.id for letter in log.list() if letter.delivery_id == us.id]

    log.edit_and_replay(outcome.letter_id, {"fails_at": "us"})
    eventually(lambda: letters() not in ([], [outcome.letter_id]), WAIT_S)
    assert cluster.row("us").handled == before
    log.edit_and_replay(letters()[0], {"fails_at": ""})
    eventually(lambda: cluster.row("us").handled == before + 2, WAIT_S)
    assert all(row.balanced for row in cluster.orchestrator.ledger())


def test_a_compensation_has_time_however_late_it_is_sent(cluster: Cluster) -> None:
    before = cluster.row("eu")
    report = cluster.orchestrator.broadcast(
        ["eu", "us"],
        app.Reprice(fails_at="us"),
        compensate=app.UndoSoon(),
        retry=Retry(max_retries=1, backoff=Constant(0.5)),
    )
    assert isinstance(report.wait(WAIT_S)["us"], Dead)
    eventually(lambda: cluster.row("eu").accepted == before.accepted + 2 and cluster.row("eu").pending == 0, WAIT_S)
    assert cluster.row("eu").handled == before.handled + 2, cluster.row("eu")


def test_an_error_that_is_no_text_keeps_nobody_from_being_compensated(redis_cluster: Cluster) -> None:
    """Regression: Redis could not read the outcome, and the group had been told by then that it had one."""
    before = redis_cluster.row("eu"), redis_cluster.row("us")
    message = app.Reprice(fails_at="us", odd=True)
    report = redis_cluster.orchestrator.broadcast(
        ["eu", "us"], message, strategy="all_or_nothing", compensate=app.Undo()
    )
    assert isinstance(report.wait(WAIT_S)["us"], Dead)
    eventually(lambda: redis_cluster.row("eu").handled == before[0].handled + 2, WAIT_S)
    with Redis.from_url(redis_cluster.url) as client:
        assert not list(client.scan_iter("orc:group:*")), "the last copy that ended has ended the group"
    assert redis_cluster.row("us").duplicated == before[1].duplicated


def test_nobody_is_compensated_when_all_handled_theirs(cluster: Cluster) -> None:
    before = cluster.row("eu").accepted
    report = cluster.orchestrator.broadcast(["eu", "us"], app.Reprice(), compensate=app.Undo())
    report.wait(WAIT_S)
    assert cluster.row("eu").accepted == before + 1


@pytest.mark.parametrize(
    ("recipients", "options", "error"),
    [
        (["eu", "nobody"], {}, UnknownAgent),
        (["eu", "eu"], {}, InvalidPolicy),
        ([], {}, InvalidPolicy),
        ("eu", {}, InvalidPolicy),
        (["eu"], {"strategy": "some"}, InvalidPolicy),
    ],
)
def test_a_broadcast_that_makes_no_sense_is_refused(
    cluster: Cluster, recipients: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    before = cluster.row("eu").accepted
    with pytest.raises(error):
        cluster.orchestrator.broadcast(recipients, app.Reprice(), **options)
    assert cluster.row("eu").accepted == before


def test_a_compensation_that_a_recipient_does_not_handle_is_refused(cluster: Cluster) -> None:
    class Unhandled(Message):
        pass

    with pytest.raises(UnknownMessage):
        cluster.orchestrator.broadcast(["eu"], app.Reprice(), compensate=Unhandled())


# -- many at once


def test_many_messages_are_sent_in_their_order(cluster: Cluster) -> None:
    messages = [app.Work(), app.Reprice(), app.Work(fails=True)]
    deliveries = cluster.orchestrator.send_many("eu", messages, metadata={"job": "7"})
    assert [delivery.message for delivery in deliveries] == ["Work", "Reprice", "Work"]
    assert deliveries[0].wait(WAIT_S) == Handled("worked")
    assert deliveries[1].wait(WAIT_S) == Handled("eu")
    assert isinstance(deliveries[-1].wait(WAIT_S), Dead)
    assert [delivery.id for delivery in deliveries[1:]] == [deliveries[1].id, deliveries[2].id]
    letter = next(
        letter for letter in cluster.orchestrator.dead_letters.list(100) if letter.delivery_id == deliveries[2].id
    )
    assert letter.metadata == {"job": "7"}
    assert letter.body() == [[{"fails": True}], {}]


def test_each_of_many_goes_by_its_own_policy(cluster: Cluster) -> None:
    deliveries = cluster.orchestrator.send_many("eu", [app.Work(fails=True), app.Urgent(), app.Work(fails=True)])
    assert isinstance(deliveries[0].wait(WAIT_S), Dead)
    with pytest.raises(SendFailed):
        deliveries[1].wait(WAIT_S)
    assert isinstance(deliveries[2].wait(WAIT_S), Dead)
    said = cluster.orchestrator.send_many("eu", [app.Work(fails=True), app.Urgent()], on_error="log")
    assert all(isinstance(delivery.wait(WAIT_S), Dead) for delivery in said)


def test_one_of_many_that_is_not_to_wait_for_an_agent_that_is_down_stops_all(redis_cluster: Cluster) -> None:
    with pytest.raises(AgentDown):
        redis_cluster.orchestrator.send_many("asia", [app.Work(), app.Urgent()])
    assert redis_cluster.row("asia").accepted == 0


def test_none_of_many_is_nothing(cluster: Cluster) -> None:
    assert len(cluster.orchestrator.send_many("eu", [])) == 0


# -- idempotency keys


def test_the_same_key_runs_once(cluster: Cluster) -> None:
    key = uuid()
    before = cluster.row("eu").accepted
    with heard("send.repeated") as events:
        first = cluster.orchestrator.send("eu", app.Work(), idempotency_key=key)
        again = cluster.orchestrator.send("eu", app.Work(fails=True), idempotency_key=key)
    assert again.id == first.id
    assert first.wait(WAIT_S) == again.wait(WAIT_S) == Handled("worked")
    assert cluster.orchestrator.send("eu", app.Work(), idempotency_key=key).outcome() == Handled("worked")
    assert cluster.row("eu").accepted == before + 1
    assert [event.metadata["id"] for event in events] == [first.id]


def test_a_key_is_the_recipients_own(cluster: Cluster) -> None:
    key = uuid()
    first = cluster.orchestrator.send("eu", app.Work(), idempotency_key=key)
    other = cluster.orchestrator.send("us", app.Work(), idempotency_key=key)
    assert first.id != other.id
    assert other.wait(WAIT_S) == Handled("worked")


def test_a_key_is_forgotten_in_time(cluster: Cluster) -> None:
    key = uuid()
    first = cluster.orchestrator.send("eu", app.Work(), idempotency_key=key, idempotency_ttl_s=0.05)
    first.wait(WAIT_S)
    eventually(
        lambda: cluster.orchestrator.send("eu", app.Work(), idempotency_key=key, idempotency_ttl_s=0.05).id != first.id,
        5,
    )


def test_duplicate_sends_at_the_same_moment_are_one(cluster: Cluster) -> None:
    key = uuid()
    ids: list[str] = []
    begin = threading.Barrier(8)

    def duplicate() -> None:
        begin.wait(WAIT_S)
        ids.append(cluster.orchestrator.send("eu", app.Work(), idempotency_key=key).id)

    threads = [threading.Thread(target=duplicate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(ids) == 8
    assert len(set(ids)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 201},
        {"idempotency_key": 7},
        {"idempotency_key": "half a pair: \ud800"},
        {"idempotency_key": "k", "idempotency_ttl_s": 0},
        {"idempotency_key": "k", "track": False},
    ],
)
def test_a_key_that_makes_no_sense_is_refused(cluster: Cluster, options: Any) -> None:
    with pytest.raises(InvalidPolicy):
        cluster.orchestrator.send("eu", app.Work(), **options)


# -- fencing tokens


def test_the_fencing_token_grows_with_each_attempt(cluster: Cluster) -> None:
    outcome = cluster.orchestrator.send("eu", app.Fence(failures=9)).wait(WAIT_S)
    assert isinstance(outcome, Dead)
    (letter,) = [letter for letter in cluster.orchestrator.dead_letters.list(100) if letter.id == outcome.letter_id]
    fences = [int(failure.message) for failure in letter.failures]
    assert len(fences) == 6
    assert fences == sorted(set(fences))
    assert fences[0] > 0
    assert fences[-1] < 2**63
