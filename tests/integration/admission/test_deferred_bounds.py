"""Messages that wait behind an open breaker are bounded by their mailbox, and each app has its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from celery import Celery

from orchestrator import Breaker, CircuitOpen, Dead, Mailbox, MailboxFull, Orchestrator, Retry
from orchestrator.core.admission.breaker import Phase
from tests.support.eventually import eventually
from tests.support.living_agents import Page, close, live, mail, make, reader

_LIMIT = 100


@pytest.fixture
def made(redis_url: str) -> Iterator[list[Orchestrator]]:
    apps: list[Orchestrator] = []
    yield apps
    for app in apps:
        close(app)


def isolated(url: str, made: list[Orchestrator], overflow: str) -> Orchestrator:
    """An app whose reader has room for a hundred messages, and a breaker that is open."""
    bound = Mailbox(limit=_LIMIT, overflow=overflow, block_s=0.05)
    made.append(make(url, reader("reader", mailbox=bound, breaker=Breaker())))
    live(made[-1], "reader")
    made[-1].send("reader", Page(number=0)).cancel()
    made[-1].breakers.isolate("reader", why="a test")
    return made[-1]


def numbers(orchestrator: Orchestrator) -> list[int]:
    """The messages that a worker would get, in that order."""
    return [_number(one["body"]) for one in mail(orchestrator, "reader")["reader"]]


def _number(body: str) -> int:

    return int(json.loads(base64.b64decode(body))[0][0]["number"])


def test_of_a_hundred_and_five_the_five_oldest_are_dropped_and_counted_and_the_others_keep_their_order(
    redis_url: str, made: list[Orchestrator]
) -> None:
    orchestrator = isolated(redis_url, made, "drop_oldest")
    sent = [orchestrator.send("reader", Page(number=n), when_open="queue") for n in range(_LIMIT + 5)]
    assert numbers(orchestrator) == []
    (state,) = [one for one in orchestrator.mailboxes() if one.queue == "reader"]
    assert (state.deferred, state.waiting) == (_LIMIT, _LIMIT)
    dropped = [delivery.outcome() for delivery in sent[:5]]
    assert [isinstance(outcome, Dead) and outcome.reason for outcome in dropped] == ["mailbox overflow"] * 5
    assert all(delivery.outcome() is None for delivery in sent[5:])
    (row,) = [row for row in orchestrator.ledger() if row.queue == "reader"]
    assert (row.accepted, row.dead, row.pending, row.balanced) == (_LIMIT + 6, 5, _LIMIT, True)
    assert {letter.reason for letter in orchestrator.dead_letters.list(10)} == {"mailbox overflow"}
    orchestrator.breakers.close("reader")
    assert numbers(orchestrator) == list(range(5, _LIMIT + 5))


@pytest.mark.parametrize("overflow", ["reject", "block"])
def test_where_the_mailbox_refuses_the_sender_of_one_more_is_told(
    redis_url: str, made: list[Orchestrator], overflow: str
) -> None:
    orchestrator = isolated(redis_url, made, overflow)
    for number in range(_LIMIT):
        orchestrator.send("reader", Page(number=number), when_open="queue")
    with pytest.raises(MailboxFull):
        orchestrator.send("reader", Page(number=_LIMIT), when_open="queue")
    orchestrator.breakers.close("reader")
    assert numbers(orchestrator) == list(range(_LIMIT))


def test_where_the_newest_is_dropped_the_first_hundred_stay(redis_url: str, made: list[Orchestrator]) -> None:
    orchestrator = isolated(redis_url, made, "drop_newest")
    sent = [orchestrator.send("reader", Page(number=n), when_open="queue") for n in range(_LIMIT + 1)]
    assert isinstance(sent[-1].outcome(), Dead)
    orchestrator.breakers.close("reader")
    assert numbers(orchestrator) == list(range(_LIMIT))


def test_more_than_one_script_lets_go_are_let_go_in_order_by_the_sweeps(
    redis_url: str, made: list[Orchestrator]
) -> None:
    made.append(make(redis_url, reader("reader", breaker=Breaker())))
    orchestrator = made[-1]
    live(orchestrator, "reader")
    orchestrator.send("reader", Page(number=0)).cancel()
    orchestrator.breakers.isolate("reader", why="a test")
    for number in range(450):
        orchestrator.send("reader", Page(number=number), when_open="queue")
    orchestrator.breakers.close("reader")
    assert numbers(orchestrator) == list(range(200))
    # One that comes meanwhile waits for its turn.
    orchestrator.send("reader", Page(number=450), when_open="queue")

    def is_released() -> bool:
        # A sweep has 0.4 s for it; on a busy machine it takes several.
        orchestrator.runtime.redis.timers.run()
        return len(numbers(orchestrator)) == 451

    eventually(is_released)
    assert numbers(orchestrator) == list(range(451))


def test_two_apps_with_prefixes_on_one_server_have_breakers_and_calls_of_their_own(
    redis_url: str, made: list[Orchestrator]
) -> None:
    for prefix in ("a:", "b:"):
        app = Celery(f"app-{prefix}", broker=redis_url, set_as_current=False)
        app.conf.broker_transport_options = {"global_keyprefix": prefix}
        made.append(Orchestrator(app))
        made[-1].host(reader("reader", breaker=Breaker()))
        live(made[-1], "reader")
    one, other = made
    one.breakers.isolate("reader", why="a test")
    with pytest.raises(CircuitOpen):
        one.send("reader", Page(number=1))
    assert other.breakers.state("reader").phase is Phase.CLOSED
    other.ask("reader", Page(number=2), timeout_s=30)
    other.send("reader", Page(number=3), retry=Retry(max_retries=0))
    assert (numbers(one), numbers(other)) == ([], [2, 3])
    assert [row.accepted for row in one.ledger()] == [0]
    assert [row.accepted for row in other.ledger()] == [2]
