"""A send from its first attempt to its dead letter and beyond: the same tests in eager mode and on a real worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Constant, Dead, Handled, Orchestrator, Retry, Status
from orchestrator.core.errors import AgentDown, SendFailed
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.dead_letter_retention import maintain_dead_letters
from orchestrator.telemetry import Event, attach, detach, events
from tests.apps import agents_app as app
from tests.support.agents_cluster import APP, QUEUES
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

WAIT_S = 30

ONCE = Retry(max_retries=0)

#: Automatic retries are due at once, and are planned when a test says so.
LETTERS: dict[str, Any] = {
    "dead_letter_auto_replays": 2,
    "dead_letter_first_replay_s": 0.001,
    "dead_letter_maintenance_interval_s": 3600,
}


@pytest.fixture(scope="module", params=["eager", "worker"])
def shared(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[Cluster]:
    patch = pytest.MonkeyPatch()
    # For handlers that ask Redis whether they are to fail.
    patch.setenv("ORCHESTRATOR_BROKER_URL", server.url)
    try:
        if request.param == "eager":
            yield Cluster(server.url, None, app.make(server.url, eager=True, **LETTERS))
            return
        environment = {"ORCHESTRATOR_TELEMETRY": '["logging"]'}
        with WorkerProcess(APP, server.url, queues=QUEUES, environment=environment) as worker:
            cluster = Cluster(server.url, worker, app.make(server.url, **LETTERS))
            yield cluster
            cluster.close()
    finally:
        patch.undo()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """Without letters."""
    shared.orchestrator.dead_letters.purge(all=True)
    return shared


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    found: list[Event] = []
    attach(found.append)
    yield found
    detach(found.append)


def told(cluster: Cluster, heard: list[Event], delivery_id: str) -> list[str]:
    """The events of a delivery: those of this process, and those that the worker has logged."""
    here = [str(event.name) for event in heard if event.metadata.get("id") == delivery_id]
    lines = [line for line in cluster.log().splitlines() if f"id={delivery_id}" in line]
    known = [str(value) for value in vars(events).values() if isinstance(value, events.EventName)]
    return sorted(here + [name for line in lines for name in known if f" {name} " in line])


def die(cluster: Cluster, text: str = "broken", **options: Any) -> DeadLetter:
    outcome = cluster.orchestrator.send("worker", app.Broken(text=text), **options).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    return cluster.orchestrator.dead_letters.get(str(outcome.letter_id))


# -- events


def test_a_success_is_told(cluster: Cluster, heard: list[Event]) -> None:
    delivery = cluster.orchestrator.send("worker", app.Flaky(failures=1))
    assert delivery.wait(timeout_s=WAIT_S) == Handled(2, 2)
    expected = sorted([events.SEND_STARTED, events.SENT, events.RETRIED, events.HANDLED])
    eventually(lambda: told(cluster, heard, delivery.id) == expected, WAIT_S, cluster.log)


def test_a_failure_is_told_with_its_letter(cluster: Cluster, heard: list[Event]) -> None:
    delivery = cluster.orchestrator.send("worker", app.Broken())
    assert isinstance(delivery.wait(timeout_s=WAIT_S), Dead)
    expected = sorted([events.SEND_STARTED, events.SENT, events.RETRIED, events.RETRIED, events.DEAD_LETTERED])
    eventually(lambda: told(cluster, heard, delivery.id) == expected, WAIT_S, cluster.log)
    assert [letter.delivery_id for letter in cluster.orchestrator.dead_letters.list()] == [delivery.id]


def test_what_is_given_up_without_a_letter_is_told_as_that(cluster: Cluster, heard: list[Event]) -> None:
    delivery = cluster.orchestrator.send("worker", app.Broken(), on_error="ignore", retry=ONCE)
    assert isinstance(delivery.wait(timeout_s=WAIT_S), Dead)
    expected = sorted([events.SEND_STARTED, events.SENT, events.DROPPED])
    eventually(lambda: told(cluster, heard, delivery.id) == expected, WAIT_S, cluster.log)
    assert cluster.orchestrator.dead_letters.count() == 0


# -- what becomes of an error


def test_log_says_it_where_it_happens(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = cluster.orchestrator.send("worker", app.Broken(text="log it"), on_error="log").wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    eventually(
        lambda: "worker Broken dropped after its last attempt: ValueError: log it" in cluster.log() + caplog.text,
        WAIT_S,
        cluster.log,
    )
    assert cluster.orchestrator.dead_letters.count() == 0


def test_raise_raises_and_keeps_a_letter(cluster: Cluster) -> None:
    with pytest.raises(SendFailed):
        cluster.orchestrator.send("worker", app.Broken(), on_error="raise").wait(timeout_s=WAIT_S)
    assert cluster.orchestrator.dead_letters.count() == 1


# -- letters


def test_letters_are_listed_none_some_and_all(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    assert (log.list(), log.count()) == ([], 0)
    made = [die(cluster, f"n{n}", retry=ONCE).id for n in range(7)]
    assert [letter.id for letter in log.list(3)] == made[::-1][:3]
    assert [letter.id for letter in log.list(1000)] == made[::-1]


def test_all_are_retried_and_handled_once_their_cause_has_passed(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    cluster.redis.set("test:closed", 1)
    deliveries = [cluster.orchestrator.send("worker", app.FailsWhile(key="test:closed"), retry=ONCE) for _ in range(12)]
    assert all(isinstance(delivery.wait(timeout_s=WAIT_S), Dead) for delivery in deliveries)
    cluster.redis.delete("test:closed")
    done = log.query().replay(all=True, why="it is open again")
    assert (done.sent, log.count()) == (12, 0)
    eventually(lambda: all(delivery.outcome() == Handled(None, 1) for delivery in deliveries), WAIT_S, cluster.log)
    assert log.query().replay(all=True).sent == 0
    assert all(row.balanced for row in cluster.idle())


def test_a_retry_that_fails_counts_its_attempts_and_its_line_counts_the_retries(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    first = letter = die(cluster)
    assert (letter.attempts, letter.lineage.replays) == (3, 0)
    for replays in (1, 2):
        before = letter
        letter = cluster.letter_after(lambda of=before: log.replay(of.id), WAIT_S)  # type: ignore[misc]
        assert (letter.attempts, len(letter.failures), letter.replay_of) == (3, 3, before.id)
        assert (letter.lineage.first, letter.lineage.replays, letter.lineage.auto) == (first.id, replays, 0)
        assert letter.delivery_id == first.delivery_id
    assert log.count() == 1


def test_old_ones_are_retried_by_themselves_never_past_the_maximum(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    before = cluster.row().accepted
    letter = die(cluster, retry=ONCE)

    def parked() -> bool:
        maintain_dead_letters(cluster.orchestrator.dead_letters, cluster.orchestrator.settings)
        return log.query(state="parked").count() == 1

    eventually(parked, WAIT_S, cluster.log)
    (last,) = log.query(state="parked").page().letters
    assert (last.delivery_id, last.lineage.replays, last.lineage.auto) == (letter.delivery_id, 2, 2)
    for _ in range(5):
        assert maintain_dead_letters(cluster.orchestrator.dead_letters, cluster.orchestrator.settings).replayed == 0
    assert cluster.row().accepted == before + 3
    assert log.count() == 1


def test_all_are_purged(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    for n in range(3):
        die(cluster, f"n{n}", retry=ONCE)
    assert log.purge(all=True) == 3
    assert (log.list(), log.purge(all=True)) == ([], 0)


def test_only_what_expired_is_purged(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    stays = die(cluster, retry=ONCE)
    late = cluster.orchestrator.send("worker", app.Perishable(), countdown_s=0.1)
    assert isinstance(late.wait(timeout_s=WAIT_S), Dead)
    assert log.query(reason="expired").purge(why="too late anyway") == 1
    assert [letter.id for letter in log.list()] == [stays.id]


def test_only_what_is_old_is_purged(cluster: Cluster) -> None:
    log = cluster.orchestrator.dead_letters
    die(cluster, "old", retry=ONCE)
    # Whatever is a day old goes, and nothing else; ages in a test's hands are tried in test_dead_letter_queries.py.
    assert log.query(older_than_s=86400).purge() == 0
    assert log.query(older_than_s=0).purge() == 1


# -- where there is somebody to die


def test_a_dead_recipient_refuses_or_keeps_its_mail_and_retries_when_it_is_back(redis_url: str) -> None:
    retry = Retry(max_retries=2, backoff=Constant(0.2))
    sender: Orchestrator = app.make(redis_url)
    with WorkerProcess(APP, redis_url, queues=QUEUES) as worker:
        cluster = Cluster(redis_url, worker, sender)
        for when_down in ("queue", "error"):
            delivery = sender.send("worker", app.Add(a=1, b=2), when_down=when_down)
            assert delivery.wait(timeout_s=WAIT_S) == Handled(3, 1)
        # One is between two attempts when it dies.
        failed = sender.send("worker", app.Flaky(failures=1), retry=Retry(max_retries=2, backoff=Constant(2)))
        eventually(lambda: failed.status() is Status.SCHEDULED, WAIT_S, worker.log)
        worker.kill()

        def refused() -> bool:
            try:
                sender.send("worker", app.Add(a=1, b=2), when_down="error", track=False)
            except AgentDown:
                return True
            return False

        with WorkerProcess(APP, redis_url, name="other", queues="other"):
            # Who sweeps finds it dead.
            eventually(refused, WAIT_S)
            waiting = sender.send("worker", app.Flaky(failures=2), retry=retry)
            assert waiting.status() is Status.PENDING
            assert waiting.outcome() is None
        worker.start()
        assert failed.wait(timeout_s=WAIT_S) == Handled(2, 2)
        assert waiting.wait(timeout_s=WAIT_S) == Handled(3, 3)
        assert all(row.balanced for row in cluster.idle())
    sender.app.close()
