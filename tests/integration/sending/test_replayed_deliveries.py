"""A delivery whose dead letter is sent again waits anew, for whoever still asks about it; without a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import CancelResult, Dead, Delivery, Orchestrator, Status
from orchestrator.core.errors import DeliveryTimeout
from orchestrator.core.keys import GROUP
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.maintenance.dead_letters import RetentionPolicy, run_maintenance
from orchestrator.transport.redis import commands
from tests.apps.shop import Charge, make
from tests.support.letters_under_test import QUEUE, reasons


@pytest.fixture
def shop(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url)
    stream = made.runtime.store.keys.stream(QUEUE, made.runtime.store.levels[1])
    made.runtime.store.run(*commands.declare(made.runtime.store.keys, QUEUE, [stream]))
    yield made
    made.app.close()


def died(shop: Orchestrator, delivery: Delivery) -> DeadLetter:
    """Its only attempt fails, as a worker has it."""
    store: Any = shop.runtime.store
    k = store.keys
    stream = k.stream(QUEUE, store.levels[1])
    ((_, entries),) = store.client.xreadgroup(GROUP, "w", {stream: ">"})
    ((entry, _),) = entries
    letter = reasons("retries exhausted", "ValueError", "no", ("/a/bank.py", "pay"), 1, QUEUE)
    outcome = '{"outcome":"dead","reason":"retries exhausted","error":"no","attempts":1,"letter_id":null}'
    full, reason, id_ = json.dumps(letter), letter["reason"], delivery.id
    store.run(
        *commands.dead_letter(
            k, QUEUE, stream, entry, full, reason, "ValueError", delivery=id_, outcome=outcome, ttl_ms=10**6
        )
    )
    return shop.dead_letters.list(1)[0]


def waits_anew(delivery: Delivery) -> None:
    assert delivery.outcome() is None
    assert delivery.status() is Status.PENDING
    assert delivery.history() == (), "the attempts of its last life"
    with pytest.raises(DeliveryTimeout):
        delivery.wait(0.01)
    assert delivery.cancel() is CancelResult.CANCELLED
    assert delivery.status() is Status.CANCELLED


@pytest.mark.parametrize("how", ["one", "many", "edited", "automatically"])
def test_a_delivery_that_is_replayed_waits_anew(shop: Orchestrator, how: str) -> None:
    delivery = shop.send("billing", Charge(order_id="o", cents=1), metadata={"id": "another"})
    letter = died(shop, delivery)
    outcome = delivery.outcome()
    assert isinstance(outcome, Dead)
    assert (outcome.letter_id, delivery.status()) == (letter.id, Status.DEAD)
    log = shop.dead_letters
    match how:
        case "one":
            log.replay(letter.id)
        case "many":
            assert log.query().replay(all=True).sent == 1
        case "edited":
            log.edit_and_replay(letter.id, {"cents": 2})
        case _:
            assert run_maintenance(log, RetentionPolicy(auto_replays=1, first_replay_s=0), budget_s=60).replayed == 1
    waits_anew(delivery)


def test_a_delivery_whose_id_is_escaped_waits_anew_too(shop: Orchestrator) -> None:
    task = shop.app.tasks["billing.Charge"]
    delivery = shop.send(task.s({"order_id": "o", "cents": 1}).set(queue=QUEUE, task_id='"é\\"'))
    assert delivery.id == '"é\\"'
    letter = died(shop, delivery)
    shop.dead_letters.replay(letter.id)
    assert delivery.outcome() is None


def test_an_outcome_that_tells_of_another_letter_is_kept(shop: Orchestrator) -> None:
    other = shop.send("billing", Charge(order_id="o", cents=1))
    letter = died(shop, other)
    # Metadata names another delivery as a message names its own.
    died(shop, shop.send("billing", Charge(order_id="p", cents=1), metadata={"id": other.id}))
    newest = shop.dead_letters.list(1)[0]
    assert newest.id != letter.id
    shop.dead_letters.replay(newest.id)
    outcome = other.outcome()
    assert isinstance(outcome, Dead)
    assert outcome.letter_id == letter.id


def test_an_imported_letters_delivery_waits_anew(shop: Orchestrator) -> None:
    delivery = shop.send("billing", Charge(order_id="o", cents=1))
    died(shop, delivery)
    log = shop.dead_letters
    lines = list(log.query().export())
    log.purge(all=True)
    assert log.import_lines(lines) == (1, 0)
    log.replay(log.list(1)[0].id)
    waits_anew(delivery)
