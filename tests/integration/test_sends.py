"""What a send can ask for, in eager mode and on each pool: the same tests, and what differs said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator import Dead, Fixed, Handled, Retry
from orchestrator.core.errors import AgentDown, InvalidPolicy, UnknownAgent
from orchestrator.registry.agents import AgentEntry
from tests.agent_house import House, hosted
from tests.apps import agents_app as app

WAIT_S = 20

#: Where a handler can be interrupted.
INTERRUPTS = ("eager", "solo", "prefork")


@pytest.fixture(scope="module", params=["eager", "solo", "threads", "prefork"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def house(kind: str) -> Iterator[House]:
    if kind == "eager":
        yield House("redis://127.0.0.1:1/0", None, app.make("redis://127.0.0.1:1/0", eager=True))
        return
    environment = {"ORCHESTRATOR_KILL_AFTER_S": "0.5"}
    with hosted(kind, concurrency=1 if kind == "solo" else 2, environment=environment) as house:
        yield house


def dead(outcome: Any) -> tuple[str, str, int]:
    assert isinstance(outcome, Dead), outcome
    return outcome.reason, outcome.error.partition(":")[0], outcome.attempts


# -- timeouts and deadlines


def test_a_slow_handler_is_interrupted_at_each_attempts_timeout(house: House, kind: str) -> None:
    delivery = house.orchestrator.send("worker", app.Lasts(for_s=60 if kind in INTERRUPTS else 0.4), timeout_s=0.2)
    outcome = delivery.wait(timeout_s=WAIT_S)
    if kind in INTERRUPTS:
        assert dead(outcome) == ("timeout", "HandlerTimeout", 2)
        assert "worker.Lasts did not finish within 0.2 s" in str(outcome)
    else:
        assert outcome == Handled(0.4, 1)
        assert "allowed were 0.200 s; this pool cannot interrupt it" in house.log()


def test_a_handler_that_ends_in_time_knows_nothing_of_it(house: House) -> None:
    assert house.orchestrator.send("worker", app.Lasts(for_s=0.01), timeout_s=10).wait(WAIT_S) == Handled(0.01, 1)


def test_a_handler_that_swallows_its_interruption_is_killed_where_the_pool_can(house: House, kind: str) -> None:
    if kind != "prefork":
        return
    delivery = house.orchestrator.send("worker", app.Stubborn(for_s=60), timeout_s=0.2)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("timeout", "HandlerTimeout", 1)
    assert house.orchestrator.send("worker", app.Add(a=1, b=2)).wait(timeout_s=WAIT_S) == Handled(3, 1)


def test_no_attempt_begins_that_the_deadline_leaves_no_time_for(house: House) -> None:
    retry = Retry(max_retries=9, backoff=Fixed(3600))
    delivery = house.orchestrator.send("worker", app.Broken(), retry=retry, deadline_s=60)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("deadline passed", "ValueError", 1)


def test_a_message_that_comes_after_its_deadline_is_not_begun(house: House, kind: str) -> None:
    if kind == "eager":
        return
    delivery = house.orchestrator.send("worker", app.Add(a=1, b=2), countdown_s=0.3, deadline_s=0.1)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("deadline passed", "DeadlinePassed", 1)


def test_the_deadline_interrupts_too(house: House, kind: str) -> None:
    if kind not in INTERRUPTS:
        return
    delivery = house.orchestrator.send("worker", app.Lasts(for_s=60), deadline_s=0.5)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("deadline passed", "HandlerTimeout", 1)


def test_a_plain_task_has_timeouts_too(house: House, kind: str) -> None:
    if kind not in INTERRUPTS:
        return
    lasts = house.orchestrator.app.tasks["plain.lasts"]
    delivery = house.orchestrator.send(lasts.s(60), retry=Retry(max_retries=0), timeout_s=0.2)
    assert dead(delivery.wait(timeout_s=WAIT_S)) == ("timeout", "HandlerTimeout", 1)


# -- which errors are repeated


@pytest.mark.parametrize(("on", "attempts"), [((ValueError,), 3), (("KeyError",), 1), ((Exception,), 3)])
def test_only_the_errors_named_are_repeated(house: House, on: Any, attempts: int) -> None:
    retry = Retry(max_retries=2, backoff=Fixed(0.01), on=on)
    outcome = house.orchestrator.send("worker", app.Broken(), retry=retry).wait(timeout_s=WAIT_S)
    assert dead(outcome)[1:] == ("ValueError", attempts)


# -- recipients


def test_a_recipient_that_is_up_takes_it_whatever_when_down_says(house: House) -> None:
    for when_down in ("queue", "error"):
        delivery = house.orchestrator.send("worker", app.Add(a=1, b=2), when_down=when_down)
        assert delivery.wait(timeout_s=WAIT_S) == Handled(3, 1)
    task = house.orchestrator.app.tasks["plain.add"]
    assert house.orchestrator.send(task.s(1, 2), when_down="error").wait(timeout_s=WAIT_S) == Handled(3, 1)


def test_a_recipient_that_is_down_gets_its_mail_later_or_not_at_all(house: House, kind: str) -> None:
    if kind == "eager":
        return
    house.orchestrator.registry.announce([AgentEntry("gone", "gone", ("Add",))])
    before = house.row("gone")
    with pytest.raises(AgentDown, match="'gone' has no living incarnation"):
        app.make(house.url).send("gone", app.Add(a=1, b=2), when_down="error")
    assert house.row("gone") == before
    delivery = app.make(house.url).send("gone", app.Add(a=1, b=2), when_down="queue")
    assert house.row("gone").pending == 1
    assert delivery.outcome() is None
    with house.orchestrator.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("gone")


def test_an_unknown_recipient_is_an_error_at_once(house: House) -> None:
    for when_down in ("queue", "error"):
        with pytest.raises(UnknownAgent, match="unknown agent 'nobody'"):
            house.orchestrator.send("nobody", app.Add(a=1, b=2), when_down=when_down)


def test_a_sender_that_does_not_declare_the_agent_goes_by_the_policy_that_was_announced(
    house: House, kind: str
) -> None:
    if kind == "eager":
        return
    stranger = app.make(house.url, hosts=False)
    policy = stranger.address("worker", "Hopeless").policy
    assert (policy.retry.max_retries, policy.retry.never) == (5, ("LookupError",))
    assert policy.sources["retry"] == "handler"
    outcome = stranger.send("worker", app.Broken()).wait(timeout_s=WAIT_S)
    assert dead(outcome) == ("retries exhausted", "ValueError", 3)
    stranger.app.close()


# -- when


def test_an_eta_is_a_countdown(house: House) -> None:
    before = time.monotonic()
    eta = datetime.now(UTC) + timedelta(seconds=0.3)
    assert house.orchestrator.send("worker", app.Add(a=1, b=2), eta=eta).wait(timeout_s=WAIT_S) == Handled(3, 1)
    assert house.worker is None or time.monotonic() - before > 0.25


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
def test_an_option_that_makes_no_sense_is_refused(house: House, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPolicy, match=said):
        house.orchestrator.send("worker", app.Add(a=1, b=2), **options)
