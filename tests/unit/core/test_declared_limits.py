"""What workers of one agent declare differently."""

from __future__ import annotations

import json

from orchestrator import Breaker, Bulkhead, Concurrency, Mailbox
from orchestrator.core.admission.declared_limits import Difference, differences, limits_of
from orchestrator.core.admission.flow_policy import Flow


def test_the_limits_of_an_agent_are_json_data_without_what_it_does_not_declare() -> None:
    flow = Flow(Mailbox(limit=5, overflow="drop_oldest"), Breaker(failures=3))
    limits = limits_of(flow, Bulkhead(calls=2), Concurrency(limit=4))
    assert json.loads(json.dumps(limits)) == {
        "concurrency": {"limit": 4},
        "mailbox": {"limit": 5, "overflow": "drop_oldest", "block_s": 10.0, "warn_at": 0.8},
        "breaker": {"failures": 3, "window_s": 30.0, "open_s": 10.0, "least": 20, "probes": 1, "callers": 1},
        "bulkhead": {"calls": 2, "wait_s": 0.0},
    }
    assert limits_of(Flow(), None, None) == {}


def test_the_same_limits_differ_nowhere() -> None:
    one = {"ledgers": {"breaker": {"failures": 3, "open_s": 10}}, "books": {}}
    other = {"ledgers": {"breaker": {"failures": 3, "open_s": 10.0}}}
    assert differences({"a@h1:1#1": one, "b@h2:1#1": other}) == []
    assert differences({}) == []


def test_a_difference_names_the_values_and_their_workers() -> None:
    def declared(limit: int) -> dict[str, dict[str, dict[str, object]]]:
        return {"ledgers": {"concurrency": {"limit": limit, "key": "tenant"}}}

    (found,) = differences({"a@h1:1#1": declared(2), "b@h2:1#1": declared(4), "c@h3:1#1": declared(4)})
    assert found == Difference(
        "ledgers", "concurrency", [("limit=2", ["a@h1:1#1"]), ("limit=4", ["b@h2:1#1", "c@h3:1#1"])]
    )
    assert str(found) == (
        "agent ledgers: its workers declare different limits, concurrency: limit=2 in a@h1:1#1; limit=4 in "
        "b@h2:1#1, c@h3:1#1. Those of the worker that registered last hold for all, until another one starts"
    )


def test_none_at_all_is_another_value() -> None:
    limited = {"ledgers": {"concurrency": {"limit": 2}}}
    many: dict[str, dict[str, dict[str, dict[str, int]]]] = {f"w{n}@h2:1#{n}": {"ledgers": {}} for n in range(5)}
    (found,) = differences({"a@h1:1#1": limited, **many})
    assert "concurrency: limit=2 in a@h1:1#1; none in w0@h2:1#0, w1@h2:1#1 and 3 more." in str(found)


def test_a_field_that_only_one_has() -> None:
    keyed = {"ledgers": {"concurrency": {"limit": 2, "key": "tenant"}}}
    (found,) = differences({"a": keyed, "b": {"ledgers": {"concurrency": {"limit": 2}}}})
    assert found.values == [("key=none", ["b"]), ("key=tenant", ["a"])]
