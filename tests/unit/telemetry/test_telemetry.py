"""Events reach whoever listens, and nobody who listens can do harm."""

import logging
from collections.abc import Iterator

import pytest

from orchestrator import Orchestrator, OrchestratorError
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.telemetry import Event, attach, detach, emit, events
from tests.apps import agents_app


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    received: list[Event] = []
    attach(received.append)
    yield received
    detach(received.append)


@pytest.fixture
def orchestrator() -> Orchestrator:
    return agents_app.make(eager=True)


def names(heard: list[Event]) -> list[str]:
    return [event.name for event in heard]


def test_an_event_has_its_name_its_measurements_and_its_metadata(heard: list[Event]) -> None:
    emit("x.y", {"n": 1.5}, agent="a")
    emit("x.z")
    assert heard == [Event("x.y", {"n": 1.5}, {"agent": "a"}), Event("x.z")]


def test_a_handler_that_fails_is_logged_and_harms_nobody(heard: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("handler is broken")

    later: list[Event] = []
    attach(broken)
    attach(later.append)
    try:
        with caplog.at_level(logging.ERROR):
            emit("x.y")
    finally:
        detach(broken)
        detach(later.append)
    assert names(heard) == names(later) == ["x.y"]
    assert "handler is broken" in caplog.text
    assert "x.y" in caplog.text


def test_who_has_detached_hears_nothing(heard: list[Event]) -> None:
    detach(heard.append)
    detach(heard.append)
    emit("x.y")
    assert heard == []


def test_a_send_tells_what_happens_to_it(heard: list[Event], orchestrator: Orchestrator) -> None:
    delivery = orchestrator.send("worker", agents_app.Broken())
    assert sorted(names(heard)) == sorted(
        [events.SEND_STARTED, events.SENT, events.RETRIED, events.RETRIED, events.DEAD_LETTERED]
    )
    assert {event.metadata["id"] for event in heard} == {delivery.id}
    assert {event.metadata["agent"] for event in heard} == {"worker"}
    retried = [event for event in heard if event.name == events.RETRIED]
    assert [event.metadata["attempt"] for event in retried] == [1, 2]
    assert all(0 <= event.measurements["pause_s"] <= 0.02 for event in retried)
    (dead_lettered,) = [event for event in heard if event.name == events.DEAD_LETTERED]
    assert (dead_lettered.metadata["reason"], dead_lettered.metadata["attempts"]) == ("retries exhausted", 3)


def test_a_handled_send_says_so(heard: list[Event], orchestrator: Orchestrator) -> None:
    delivery = orchestrator.send("worker", agents_app.Flaky(failures=1))
    handled = [event for event in heard if event.name == events.HANDLED]
    assert [(e.metadata["id"], e.metadata["attempts"]) for e in handled] == [(delivery.id, 2)]


def test_a_message_given_up_without_a_letter_is_told_as_dropped(heard: list[Event], orchestrator: Orchestrator) -> None:
    orchestrator.send("worker", agents_app.Broken(), on_error="ignore")
    assert events.DROPPED in names(heard)
    assert events.DEAD_LETTERED not in names(heard)


def test_dead_letters_tell_when_they_are_retried_and_purged(heard: list[Event], orchestrator: Orchestrator) -> None:
    outcome = orchestrator.send("worker", agents_app.Broken()).outcome()
    assert outcome is not None
    (letter,) = orchestrator.dead_letters.list()
    orchestrator.dead_letters.replay(letter.id)
    assert orchestrator.dead_letters.purge(all=True) == 1
    replayed = next(event for event in heard if event.name == events.REPLAYED)
    assert (replayed.metadata["letter_id"], replayed.metadata["queue"]) == (letter.id, "worker")
    assert heard[-1] == Event(events.PURGED, {"count": 1})


def test_a_refused_send_is_not_told_as_accepted(heard: list[Event], orchestrator: Orchestrator) -> None:
    with pytest.raises(OrchestratorError):
        orchestrator.send("nobody", agents_app.Add(a=1, b=2))
    assert heard == []


def test_a_send_that_fails_on_the_way_says_so(heard: list[Event]) -> None:
    nowhere = agents_app.make("redis://127.0.0.1:1/0")
    nowhere.app.conf.task_publish_retry = False
    with pytest.raises(BrokerUnavailable):
        nowhere.send("worker", agents_app.Add(a=1, b=2))
    assert names(heard) == [events.SEND_STARTED, events.SEND_FAILED]
    assert heard[1].metadata["error"] == "BrokerUnavailable"
    assert heard[1].measurements["duration_s"] >= 0
