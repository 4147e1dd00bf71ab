"""Asks by real workers: one reply for each, whoever is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from orchestrator import Handled
from orchestrator.embedded import EmbeddedServer
from orchestrator.sending.dispatch import send_with_events
from orchestrator.sending.messages.outgoing_message import AskRequest
from orchestrator.sending.send_options import CheckedOptions
from orchestrator.telemetry import attach, detach
from tests.apps import calls_app
from tests.apps.calls_app import Order, Quote
from tests.support.askers import Askers, askers
from tests.support.eventually import eventually
from tests.support.living_agents import close


@pytest.fixture(scope="module")
def both() -> Iterator[Askers]:
    with EmbeddedServer() as server, askers(server) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _anew(request: pytest.FixtureRequest) -> None:
    if "both" in request.fixturenames:
        request.getfixturevalue("both").forget()


def test_replies_come_as_messages_with_their_tags(both: Askers) -> None:
    outcome = both.orchestrator.send("shop", Order(number=5, count=20)).wait(timeout_s=20)
    assert isinstance(outcome, Handled)
    replies = both.replied(20)
    assert sorted((r["tag"]["number"], r["result"], r["error"]) for r in replies) == [
        (n, 2 * n, "") for n in range(5, 25)
    ]
    assert sorted(r["id"] for r in replies) == sorted(outcome.result)
    both.idle()
    assert both.counts() == {"asked": 20, "handled": 20}
    assert both.redis.zcard(both.keys.timers) == 0
    assert both.redis.keys(both.keys.ask("*")) == []


@pytest.mark.parametrize(
    ("how", "why", "letters"),
    [
        ("fails", "no price", []),
        ("odd", "not JSON data", [("billing", "result not stored")]),
        ("large", "result of 3000002 bytes", [("billing", "result too large")]),
    ],
)
def test_what_is_not_handled_is_an_error(both: Askers, how: str, why: str, letters: list[tuple[str, str]]) -> None:
    """For the asker; what the agent that is asked has to correct is its dead letter, too."""
    before = {letter.id for letter in both.orchestrator.dead_letters.list(100)}
    both.orchestrator.send("shop", Order(number=1, how=how))
    (reply,) = both.replied(1)
    assert why in reply["error"]
    both.idle()
    assert both.counts() == {"asked": 1, "dead": 1}
    kept = [letter for letter in both.orchestrator.dead_letters.list(100) if letter.id not in before]
    assert [(letter.agent, letter.reason) for letter in kept] == letters


def test_a_time_out_is_the_reply_and_ends_the_request(both: Askers) -> None:
    orchestrator = both.orchestrator
    # The first is held, so that the second waits.
    orchestrator.send("shop", Order(number=1, how="holds"))
    eventually(lambda: both.redis.llen("test:begun"))
    orchestrator.send("shop", Order(number=2, how="holds", timeout_s=0.2))
    (reply,) = both.replied(1)
    assert reply["tag"] == {"number": 2}
    assert "has no reply after 0.2 s" in reply["error"]
    both.redis.rpush("test:go:1", 1)
    assert {r["tag"]["number"] for r in both.replied(2)} == {1, 2}
    both.idle()
    assert both.counts() == {"asked": 2, "timeout": 1, "handled": 1}
    assert both.row("billing").cancelled == 1
    assert both.redis.llen("test:begun") == 1


def test_an_ask_is_an_event(redis_url: str) -> None:
    """Nobody else looks at the timers here: a worker that sweeps would emit the second event in its own process."""
    orchestrator = calls_app.make(redis_url)
    seen: list[Any] = []
    attach(seen.append, "ask.sent", "ask.replied")
    try:
        ask_id = orchestrator.runtime.asker.ask("shop", "bounded", Quote(number=1), 0.05, None)
        eventually(lambda: orchestrator.runtime.redis.timers.run())
    finally:
        detach(seen.append)
        close(orchestrator)
    names = [(event.name, event.metadata["id"]) for event in seen]
    assert names == [("ask.sent", ask_id), ("ask.replied", ask_id)]
    assert seen[1].metadata["ended"] == "timeout"


def test_a_time_out_that_a_sweep_notices_first_is_in_the_inbox(both: Askers) -> None:
    runtime = both.orchestrator.runtime
    backend, request = runtime.modes.backend(), runtime.sender.build("alone", Quote(number=1), CheckedOptions())
    send_with_events(backend, replace(request, ask=AskRequest(request.id, 0.02, inbox=("box", "one"))))
    eventually(lambda: runtime.redis.timers.run())
    assert backend.inbox("box").read(monotonic() + 5) == [("one", None)]
    assert not backend.end_ask(request.id, "time out")


def test_a_killed_asker_gets_its_replies_in_its_next_life(both: Askers) -> None:
    both.orchestrator.send("shop", Order(number=1, count=3, dies=True))
    eventually(lambda: not both.asker.is_running)
    both.asker.start()
    # The order is handled again, and asks again.
    replies = both.replied(6)
    assert sorted(reply["tag"]["number"] for reply in replies) == [1, 1, 2, 2, 3, 3]
    both.idle()
    assert both.counts() == {"asked": 6, "handled": 6}


def test_a_killed_callee_answers_from_its_next_life(both: Askers) -> None:
    both.orchestrator.send("shop", Order(number=7, how="dies once"))
    eventually(lambda: not both.callee.is_running)
    both.callee.start()
    (reply,) = both.replied(1)
    assert reply["result"] == 14
    both.idle()
    assert both.counts() == {"asked": 1, "handled": 1}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_one_reply_for_each_ask_under_kills_of_all() -> None:
    dice = random.Random(17)
    config = {"appendonly": "yes", "appendfsync": "always"}
    with EmbeddedServer(config=config) as server, askers(server) as cluster:
        asked = 0
        for _round in range(12):
            count = dice.randint(1, 15)
            asked += count
            how = dice.choice(["", "dies once", "fails"])
            cluster.orchestrator.send("shop", Order(number=asked, count=count, how=how, many=dice.random() < 0.5))
            match dice.choice(["asker", "callee", "redis", "both", "nobody"]):
                case "asker":
                    cluster.asker.kill()
                case "callee":
                    cluster.callee.kill()
                case "redis":
                    server.kill()
                    server.restart()
                case "both":
                    cluster.asker.kill()
                    cluster.callee.kill()
            for worker in (cluster.asker, cluster.callee):
                if not worker.is_running:
                    worker.start()

        def all_replied() -> bool:
            for worker in (cluster.asker, cluster.callee):
                if not worker.is_running:
                    worker.start()
            counts = cluster.counts()
            return counts.pop("asked", 0) == sum(counts.values()) and all(
                row.pending == 0 for row in cluster.orchestrator.ledger()
            )

        eventually(all_replied, 90, lambda: f"{cluster.counts()} {cluster.orchestrator.ledger()}")
        counts, replies = cluster.counts(), cluster.replies()
        # A handler that was killed after it has asked asks again: there may be more asks, and each has its reply.
        assert counts["asked"] >= asked
        assert len({reply["id"] for reply in replies}) == counts["asked"]
        assert cluster.row("shop").accepted == 12 + counts["asked"]
        assert cluster.redis.keys(cluster.keys.ask("*")) == []
        assert cluster.redis.zcard(cluster.keys.timers) == 0
