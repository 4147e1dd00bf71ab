"""What a send can ask for, in eager mode and on each pool: the same tests, and what differs said."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain, chord, group

from orchestrator import Cancelled, CancelResult, Constant, Dead, FallbackDelivery, Handled, Retry, Status
from orchestrator.core.errors import AgentDown, DeliveryTimeout, InvalidPolicy, SendFailed, UnknownAgent
from orchestrator.registry.registry import AgentEntry
from tests.apps import agents_app as app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.sends import EAGER, WAIT_S, dead

# -- canvas


def test_a_chain_is_a_run_each_of_whose_tasks_is_supervised(cluster: Cluster, kind: str) -> None:
    app.NOTED.clear()
    tasks = cluster.orchestrator.app.tasks
    name = f"chain {kind}"
    run = cluster.orchestrator.send(chain(tasks["plain.add"].s(1, 2), tasks["plain.add"].s(10)), metadata={"x": 1})
    assert run.wait(WAIT_S).state == "completed"
    assert (run.result(), run.outcome("plain.add-1")) == (13, Handled(3, 1))
    steps = chain(tasks["plain.fail"].s("no"), tasks["plain.noted"].si("went on", name=name))
    steps.link_error(tasks["plain.noted"].si("gave up", name=name))
    run = cluster.orchestrator.send(steps, retry=Retry(max_retries=2, backoff=app.SOON))
    assert run.wait(WAIT_S).state == "failed"
    assert dead(run.outcome("plain.fail-1")) == ("retries exhausted", "ValueError", 3)
    assert noted(cluster, name) == ["gave up"]


def test_a_dead_chain_goes_on_once_its_letter_is_replayed_and_handled(cluster: Cluster, kind: str) -> None:
    app.NOTED.clear()
    tasks, log = cluster.orchestrator.app.tasks, cluster.orchestrator.dead_letters
    name = f"shut {kind}"
    steps = chain(
        tasks["plain.gated"].s(name), tasks["plain.noted"].s(name=name), tasks["plain.noted"].si("last", name=name)
    )
    steps.link_error(tasks["plain.noted"].si("gave up", name=name))
    keep_shut(cluster, name, True)
    run = cluster.orchestrator.send(steps, retry=Retry(max_retries=1, backoff=app.SOON))
    run.wait(WAIT_S)
    outcome = run.outcome("plain.gated-1")
    assert isinstance(outcome, Dead)
    # Dead once more, it has lost nothing of what follows, and the errback is not called again.
    again = cluster.letter_after(lambda: log.replay(str(outcome.letter_id)), WAIT_S)
    keep_shut(cluster, name, False)
    log.replay(again.id)
    eventually(lambda: run.status().state == "completed", WAIT_S, cluster.log)
    assert sorted(noted(cluster, name)) == sorted(["gave up", name, "last"])


def keep_shut(cluster: Cluster, name: str, wanted: bool) -> None:
    """Have ``plain.gated`` fail, or be handled again."""
    if not cluster.has_worker:
        (app.SHUT.add if wanted else app.SHUT.discard)(name)
    elif wanted:
        cluster.redis.set(f"test:shut:{name}", 1)
    else:
        cluster.redis.delete(f"test:shut:{name}")


def test_groups_and_chords_are_runs_and_started_by_celery_have_their_tasks_supervised(cluster: Cluster) -> None:
    tasks = cluster.orchestrator.app.tasks
    add, total = tasks["plain.add"], tasks["plain.total"]
    runs = [
        cluster.orchestrator.send(group(add.s(1, 2), add.s(3, 4)), timeout_s=5),
        cluster.orchestrator.send(chord([add.s(1, 2), add.s(3, 4)], total.s()), deadline_s=60),
        cluster.orchestrator.send(add.starmap([(1, 2), (3, 4)])),
    ]
    for run in runs:
        run.wait(WAIT_S)
    assert [run.result() for run in runs] == [[3, 7], 10, [3, 7]]
    if cluster.has_worker:
        letter = cluster.letter_after(lambda: group(add.s(1, 2), tasks["plain.fail"].s("in a group")).apply_async())
        assert (letter.task, letter.error_message) == ("plain.fail", "in a group")


def test_what_a_canvas_does_not_take_is_named(cluster: Cluster) -> None:
    add = cluster.orchestrator.app.tasks["plain.add"]
    canvas = group(add.s(1, 2), add.s(3, 4))
    for options in ({"idempotency_key": "k"}, {"countdown_s": 5}, {"track": False}):
        with pytest.raises(InvalidPolicy, match=r"allowed: for a canvas deadline_s, metadata"):
            cluster.orchestrator.send(canvas, **options)
    with pytest.raises(TypeError, match="colour"):
        cluster.orchestrator.send(canvas, colour="red")  # type: ignore[call-overload]
    with pytest.raises(InvalidPolicy, match="nothing, when a canvas is sent"):
        cluster.orchestrator.send(canvas, app.Add(a=1, b=2))
    with pytest.raises(InvalidPolicy, match=r"a canvas is started by send\(\)"):
        cluster.orchestrator.call(canvas, timeout_s=5)


# -- which errors are repeated


@pytest.mark.parametrize(("on", "attempts"), [((ValueError,), 3), (("KeyError",), 1), ((Exception,), 3)])
def test_only_the_errors_named_are_repeated(cluster: Cluster, on: Any, attempts: int) -> None:
    retry = Retry(max_retries=2, backoff=Constant(0.01), on=on)
    outcome = cluster.orchestrator.send("worker", app.Broken(), retry=retry).wait(timeout_s=WAIT_S)
    assert dead(outcome)[1:] == ("ValueError", attempts)


# -- recipients


def test_a_recipient_that_is_up_takes_it_whatever_when_down_says(cluster: Cluster) -> None:
    for when_down in ("queue", "error"):
        delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=2), when_down=when_down)
        assert delivery.wait(timeout_s=WAIT_S) == Handled(3, 1)
    task = cluster.orchestrator.app.tasks["plain.add"]
    assert cluster.orchestrator.send(task.s(1, 2), when_down="error").wait(timeout_s=WAIT_S) == Handled(3, 1)


def test_a_recipient_that_is_down_gets_its_mail_later_or_not_at_all(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    cluster.orchestrator.registry.announce([AgentEntry("gone", "gone", ("Add",))])
    before = cluster.row("gone")
    with pytest.raises(AgentDown, match="'gone' has no living incarnation"):
        app.make(cluster.url).send("gone", app.Add(a=1, b=2), when_down="error")
    assert cluster.row("gone") == before
    delivery = app.make(cluster.url).send("gone", app.Add(a=1, b=2), when_down="queue")
    assert cluster.row("gone").pending == 1
    assert delivery.outcome() is None
    with cluster.orchestrator.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("gone")


def test_an_unknown_recipient_is_an_error_at_once(cluster: Cluster) -> None:
    for when_down in ("queue", "error"):
        with pytest.raises(UnknownAgent, match="unknown agent 'nobody'"):
            cluster.orchestrator.send("nobody", app.Add(a=1, b=2), when_down=when_down)


def test_a_sender_that_does_not_declare_the_agent_goes_by_the_policy_that_was_announced(
    cluster: Cluster, kind: str
) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    stranger = app.make(cluster.url, hosts=False)
    policy = stranger.runtime.directory.address("worker", "Hopeless").policy
    assert (policy.retry.max_retries, policy.retry.never) == (5, ("LookupError",))
    assert policy.sources["retry"] == "handler"
    outcome = stranger.send("worker", app.Broken()).wait(timeout_s=WAIT_S)
    assert dead(outcome) == ("retries exhausted", "ValueError", 3)
    stranger.app.close()


# -- when


def test_an_eta_is_a_countdown(cluster: Cluster) -> None:
    before = time.monotonic()
    eta = datetime.now(UTC) + timedelta(seconds=0.3)
    assert cluster.orchestrator.send("worker", app.Add(a=1, b=2), eta=eta).wait(timeout_s=WAIT_S) == Handled(3, 1)
    assert not cluster.has_worker or time.monotonic() - before > 0.25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": 5, "deadline_s": 4}, "timeout_s=5 is not allowed; allowed: at most deadline_s=4"),
        ({"eta": datetime(2030, 1, 1)}, "eta=.*with a time zone"),  # noqa: DTZ001 - this is what is refused
        ({"eta": datetime(2030, 1, 1, tzinfo=UTC), "countdown_s": 5}, "either eta or countdown_s"),
        ({"when_down": "hope"}, "when_down='hope'"),
        ({"priority": -1}, "priority=-1"),
        ({"retry": 5}, "retry=5"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(cluster: Cluster, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPolicy, match=said):
        cluster.orchestrator.send("worker", app.Add(a=1, b=2), **options)


# -- where it is, and how it came there


def noted(cluster: Cluster, name: str) -> list[str]:
    if not cluster.has_worker:
        return list(app.NOTED)
    notes: Any = cluster.redis.lrange(f"test:noted:{name}", 0, -1)
    return [note.decode() for note in notes]


def test_a_delivery_that_has_ended_tells_each_attempt(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Flaky(failures=2))
    assert delivery.wait(timeout_s=WAIT_S) == Handled(3, 3)
    assert delivery.status() is Status.HANDLED
    attempts = delivery.history()
    assert [(a.number, a.how) for a in attempts] == [
        (1, "ConnectionError: attempt 1"),
        (2, "ConnectionError: attempt 2"),
        (3, "handled"),
    ]
    assert all(a.worker and datetime.fromisoformat(a.ended_at).tzinfo for a in attempts)
    assert attempts[-1].runtime_s is not None


def test_a_dead_delivery_tells_each_attempt_too(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Broken(), retry=Retry(max_retries=1, backoff=app.SOON))
    delivery.wait(timeout_s=WAIT_S)
    assert delivery.status() is Status.DEAD
    assert [(a.number, a.how) for a in delivery.history()] == [(1, "ValueError: broken"), (2, "ValueError: broken")]


def test_a_delivery_on_its_way_says_where_it_is(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    later = cluster.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=3600)
    assert later.status() is Status.SCHEDULED
    retry = Retry(max_retries=1, backoff=Constant(3600))
    failed = cluster.orchestrator.send("worker", app.Broken(), retry=retry)
    eventually(lambda: failed.status() is Status.SCHEDULED, describe=cluster.log)
    assert [(a.number, a.how) for a in failed.history()] == [(1, "ValueError: broken")]
    running = [cluster.orchestrator.send("worker", app.Hold(name=f"where {kind}")) for _ in range(2)]
    eventually(lambda: running[0].status() is Status.RUNNING, describe=cluster.log)
    waiting = [cluster.orchestrator.send("worker", app.Add(a=n, b=0)) for n in range(30)]
    assert waiting[-1].status() is Status.PENDING
    assert waiting[-1].history() == ()
    for delivery in (later, failed, waiting[-1]):
        assert delivery.cancel() is CancelResult.CANCELLED
        assert delivery.status() is Status.CANCELLED
        assert delivery.wait(timeout_s=1) == Cancelled(by="sender")
    assert [(a.number, a.how) for a in failed.history()] == [(1, "ValueError: broken")]
    cluster.redis.rpush(f"test:go:where {kind}", "1", "2")
    assert [d.wait(timeout_s=WAIT_S) for d in waiting[:-1]] == [Handled(n, 1) for n in range(29)]
    assert all(row.balanced for row in cluster.idle())


def test_what_is_not_tracked_and_has_ended_is_nowhere(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=2), track=False)
    cluster.idle()
    assert delivery.status() is Status.UNKNOWN
    assert delivery.cancel() is CancelResult.UNKNOWN


def test_what_has_its_outcome_can_be_cancelled_no_more(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Add(a=1, b=2))
    delivery.wait(timeout_s=WAIT_S)
    assert delivery.cancel() is CancelResult.TOO_LATE
    assert delivery.outcome() == Handled(3, 1)


def test_what_runs_is_interrupted_where_the_pool_can(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    delivery = cluster.orchestrator.send("worker", app.Hold(name=f"cancelled {kind}"))
    eventually(lambda: delivery.status() is Status.RUNNING, describe=cluster.log)
    if kind == "prefork":
        assert delivery.cancel() is CancelResult.INTERRUPTING
        assert isinstance(delivery.wait(timeout_s=WAIT_S), Cancelled)
    else:
        assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
        cluster.redis.rpush(f"test:go:cancelled {kind}", "1")
        assert delivery.wait(timeout_s=WAIT_S) == Handled(f"cancelled {kind}", 1)
    assert all(row.balanced for row in cluster.idle())


def test_what_cannot_be_interrupted_is_not_tried_again_once_it_is_cancelled(cluster: Cluster, kind: str) -> None:
    if kind not in ("threads", "solo"):
        pytest.skip("this place interrupts it, or runs it at once")
    cluster.redis.set("test:failing", "1")
    retry = Retry(max_retries=5, backoff=Constant(0.2))
    delivery = cluster.orchestrator.send("worker", app.HoldAndFail(name=f"again {kind}"), retry=retry)
    eventually(lambda: delivery.status() is Status.RUNNING, describe=cluster.log)
    assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
    cluster.redis.rpush(f"test:go:again {kind}", "1")
    assert isinstance(delivery.wait(timeout_s=WAIT_S), Cancelled)


# -- call


def test_a_call_returns_the_reply(cluster: Cluster) -> None:
    assert cluster.orchestrator.call("worker", app.Add(a=1, b=2), timeout_s=WAIT_S) == 3
    assert cluster.orchestrator.call(cluster.orchestrator.app.tasks["plain.add"].s(1, 2), timeout_s=WAIT_S) == 3


def test_a_call_that_fails_says_why_and_is_not_tried_again(cluster: Cluster) -> None:
    before = cluster.orchestrator.dead_letters.count()
    with pytest.raises(SendFailed, match="ValueError: broken") as failed:
        cluster.orchestrator.call("worker", app.Broken(), timeout_s=WAIT_S)
    assert dead(failed.value.outcome)[2] == 1
    assert cluster.orchestrator.dead_letters.count() == before


def test_a_call_that_fails_can_fall_back_to_a_send_and_says_so(cluster: Cluster) -> None:
    fallback = {"retry": Retry(max_retries=1, backoff=app.SOON), "metadata": {"late": True}}
    result = cluster.orchestrator.call("worker", app.Broken(), timeout_s=WAIT_S, fallback=fallback)
    assert isinstance(result, FallbackDelivery)
    assert isinstance(result.error, SendFailed)
    assert dead(result.delivery.wait(timeout_s=WAIT_S)) == ("retries exhausted", "ValueError", 2)
    assert cluster.orchestrator.call("worker", app.Add(a=1, b=2), timeout_s=WAIT_S, fallback=True) == 3


def test_a_call_has_an_end(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    with pytest.raises(DeliveryTimeout):
        cluster.orchestrator.call("worker", app.Hold(name=f"call {kind}"), timeout_s=0.3)
    cluster.redis.rpush(f"test:go:call {kind}", "1")
    cluster.idle()
    cluster.redis.delete(f"test:go:call {kind}")
    with pytest.raises(InvalidPolicy, match="timeout_s=0"):
        cluster.orchestrator.call("worker", app.Add(a=1, b=2), timeout_s=0)


def test_a_call_to_an_agent_that_is_down_fails_at_once_or_falls_back_at_once(cluster: Cluster, kind: str) -> None:
    if kind == "eager":
        pytest.skip(EAGER)
    cluster.orchestrator.registry.announce([AgentEntry("away", "away", ("Add",))])
    sender = app.make(cluster.url)
    with pytest.raises(AgentDown, match="'away'"):
        sender.call("away", app.Add(a=1, b=2), timeout_s=WAIT_S)
    result = sender.call("away", app.Add(a=1, b=2), timeout_s=WAIT_S, fallback=True)
    assert isinstance(result, FallbackDelivery)
    assert isinstance(result.error, AgentDown)
    assert result.delivery.status() is Status.PENDING
    assert result.delivery.cancel() is CancelResult.CANCELLED
    sender.app.close()


# -- to oneself


def test_an_agent_sends_to_itself_without_retries(cluster: Cluster, kind: str) -> None:
    app.NOTED.clear()
    before = cluster.orchestrator.dead_letters.count()
    cluster.orchestrator.send("worker", app.Ticks(name=f"ticks {kind}", left=3)).wait(timeout_s=WAIT_S)
    assert eventually(lambda: noted(cluster, f"ticks {kind}") == ["3 1", "2 1", "1 1", "0 1"], describe=cluster.log)
    app.NOTED.clear()
    cluster.orchestrator.send("worker", app.Ticks(name="fails", left=1)).wait(timeout_s=WAIT_S)
    eventually(lambda: cluster.orchestrator.dead_letters.count() == before + 1, describe=cluster.log)
    assert noted(cluster, "fails") == ["1 1", "0 1"]
    (letter, *_) = cluster.orchestrator.dead_letters.list(1)
    assert (letter.agent, letter.message, letter.attempts) == ("worker", "Ticks", 1)


# -- what is said at start-up


def test_what_a_pool_cannot_do_is_said_when_its_worker_starts(cluster: Cluster, kind: str) -> None:
    if kind in ("threads", "gevent"):
        assert f"worker.Hurried: a {kind} pool cannot interrupt what runs" in cluster.log()
    elif kind == "solo":
        assert "worker.Hurried: a solo pool interrupts at timeout_s, but cannot kill" in cluster.log()
    else:
        assert "worker.Hurried: a" not in cluster.log()
    if kind != "eager":
        assert "plain.early: not supervised, acks_late=False" in cluster.log()
        assert "plain.own: not supervised, its Request class is tests.apps.agents_app:OwnRequest" in cluster.log()


@pytest.mark.parametrize(("task", "said"), [("plain.early", "acks_late"), ("plain.own", "Request class")])
def test_a_task_that_cannot_be_supervised_goes_on_working_and_is_refused_where_supervision_is_asked_for(
    cluster: Cluster, task: str, said: str
) -> None:
    tasks = cluster.orchestrator.app.tasks
    assert tasks[task].delay(1, 2).get(timeout=WAIT_S) == 3
    with pytest.raises(InvalidPolicy, match=said):
        cluster.orchestrator.send(tasks[task].s(1, 2))
