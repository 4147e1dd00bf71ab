"""A map over a large list: the list is read once by a worker, and no handler can change it for another."""

from __future__ import annotations

import json

from redis import Redis

from orchestrator.workflows.references import MARK
from orchestrator.workflows.step_arguments import StepArguments
from tests.support.bare_broker import BareBroker

ITEM = {MARK: {"item": {"step": "0", "path": []}, "path": []}}
LARGE = [{"number": number} for number in range(2000)]


def _fill(arguments: StepArguments, item: int) -> dict[str, int]:
    filled: dict[str, int] = arguments.fill({"uid": "u", "step": f"1.{item}"}, ITEM)
    return filled


def test_the_list_is_read_once(broker: BareBroker) -> None:
    store, arguments = broker.store, StepArguments(broker.store)
    outcome = {"outcome": "handled", "result": LARGE, "attempts": 1}
    client: Redis = broker.redis
    client.hset(f"{store.keys.run('u')}:outcomes", "0", json.dumps(outcome))
    first = _fill(arguments, 0)
    client.delete(f"{store.keys.run('u')}:outcomes")
    first["number"] = -1
    assert [_fill(arguments, item)["number"] for item in (0, 1, 1999)] == [0, 1, 1999]


def test_a_result_that_may_still_change_is_read_again(broker: BareBroker) -> None:
    store, arguments = broker.store, StepArguments(broker.store)
    client: Redis = broker.redis
    dead = {"outcome": "dead", "reason": "poison", "error": "x" * 5000, "attempts": 1}
    client.hset(f"{store.keys.run('u')}:outcomes", "0", json.dumps(dead))
    assert _fill(arguments, 0) is None
    client.hset(f"{store.keys.run('u')}:outcomes", "0", json.dumps({"outcome": "handled", "result": LARGE}))
    assert _fill(arguments, 3) == {"number": 3}
