"""A distribution with an idempotency key is accepted once, in eager mode and on Redis, also if its sender is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator import (
    Agent,
    Context,
    DistributionRefused,
    Handled,
    InvalidPolicy,
    Message,
    Needs,
    Orchestrator,
    Retry,
    handles,
)
from tests.support.distributing_process import AGENTS, DistributingProcess
from tests.support.eventually import eventually
from tests.support.living_agents import Cover, Page, close, end, live, mail, make, reader

ITEMS = 1000
KEY = "night of 2026-10-07"


class Begin(Message): ...


class Beginner(Agent):
    """Gives items out, and fails once after that."""

    name = "beginner"
    retry = Retry(max_retries=1)

    @handles(Begin)
    def begin(self, _message: Begin, context: Context) -> str:
        items = [Page(number=number) for number in range(4)]
        report = context.orchestrator.distribute(items, to=Needs("ocr"), idempotency_key=KEY)
        if context.attempt == 1:
            raise OSError("after it has given the items out")
        return report.id


READERS = tuple(reader(name, "ocr") for name in AGENTS)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url, *READERS)
    live(made, *AGENTS)
    yield made
    close(made)


@pytest.fixture
def eager() -> Iterator[Orchestrator]:
    made = make("redis://127.0.0.1:1/0", *READERS, Beginner, eager=True)
    yield made
    close(made)


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest) -> Orchestrator:
    made: Orchestrator = request.getfixturevalue(request.param)
    return made


def pages(count: int) -> list[Page]:
    return [Page(number=number) for number in range(count)]


def accepted(orchestrator: Orchestrator) -> int:
    return sum(row.accepted for row in orchestrator.ledger())


def test_the_same_key_again_sends_nothing_and_returns_the_first_report(orchestrator: Orchestrator) -> None:
    first = orchestrator.distribute([*pages(5), Cover(title="t")], to=["a", "b"], idempotency_key=KEY)
    again = orchestrator.distribute([*pages(5), Cover(title="t")], to=["b"], strategy="random", idempotency_key=KEY)
    assert again == first
    assert accepted(orchestrator) == 6
    assert (again.counts, again.left_out) == ({"a": 3, "b": 3}, {})
    assert {key: delivery.id for key, delivery in again.deliveries.items()} == {
        key: delivery.id for key, delivery in first.deliveries.items()
    }
    if orchestrator.eager:
        assert again.wait(1)[5] == Handled("t")
    else:
        assert again.deliveries[0].cancel() == "cancelled"
    other = orchestrator.distribute(pages(5), to=["a"], idempotency_key="another")
    assert other.id != first.id
    assert orchestrator.distribute(pages(5), to=["a"]).id not in (first.id, other.id)


def test_named_items_keep_their_names(orchestrator: Orchestrator) -> None:
    items = {"x": Page(number=1), "y": Cover(title="t")}
    first = orchestrator.distribute(items, to=["a", "b"], idempotency_key=KEY)
    assert orchestrator.distribute(items, to=["a", "b"], idempotency_key=KEY) == first


@pytest.mark.parametrize(
    "items",
    [pages(4), pages(5)[::-1], [*pages(4), Cover(title="t")], {str(n): page for n, page in enumerate(pages(5))}],
    ids=["fewer", "another order", "another type", "named"],
)
def test_other_items_under_the_key_are_refused(orchestrator: Orchestrator, items: Any) -> None:
    orchestrator.distribute(pages(5), to=["a"], idempotency_key=KEY)
    with pytest.raises(InvalidPolicy, match="a distribution of other items was accepted"):
        orchestrator.distribute(items, to=["a"], idempotency_key=KEY)
    assert accepted(orchestrator) == 5


def test_a_key_is_forgotten_after_its_time(orchestrator: Orchestrator) -> None:
    first = orchestrator.distribute(pages(1), to=["a"], idempotency_key=KEY, idempotency_ttl_s=0.001)
    again = eventually(
        lambda: (
            made.id
            if (made := orchestrator.distribute(pages(1), to=["a"], idempotency_key=KEY, idempotency_ttl_s=60)).id
            != first.id
            else ""
        )
    )
    assert orchestrator.distribute(pages(2)[:1], to=["a"], idempotency_key=KEY).id == again


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"idempotency_key": ""}, "idempotency_key=''"),
        ({"idempotency_key": 7}, "idempotency_key=7"),
        ({"idempotency_key": "k", "idempotency_ttl_s": 0}, "idempotency_ttl_s=0"),
    ],
)
def test_bad_keys_are_refused(orchestrator: Orchestrator, options: Any, text: str) -> None:
    with pytest.raises(InvalidPolicy, match=text):
        orchestrator.distribute(pages(1), to=["a"], **options)
    assert accepted(orchestrator) == 0


def test_a_handler_that_is_retried_gives_its_items_out_once(eager: Orchestrator) -> None:
    outcome = eager.send("beginner", Begin()).wait(timeout_s=1)
    assert isinstance(outcome, Handled)
    assert outcome.attempts == 2
    assert {row.queue: row.accepted for row in eager.ledger()} == {"a": 2, "b": 2, "beginner": 1}


def test_the_first_report_is_there_although_nobody_takes_items_any_more(redis: Orchestrator) -> None:
    first = redis.distribute(pages(4), to=Needs("ocr"), idempotency_key=KEY)
    end(redis)
    assert redis.distribute(pages(4), to=Needs("ocr"), idempotency_key=KEY) == first


def test_a_refused_distribution_leaves_its_key_free(redis: Orchestrator) -> None:
    end(redis)
    with pytest.raises(DistributionRefused, match="no item was sent"):
        redis.distribute(pages(4), to=["a"], idempotency_key=KEY)
    live(redis, "a", number=2)
    assert redis.distribute(pages(4), to=["a"], idempotency_key=KEY).counts == {"a": 4}


def test_of_many_at_the_same_time_one_is_accepted(redis: Orchestrator) -> None:
    began = threading.Barrier(6)

    def give(number: int) -> Any:
        began.wait(20)
        return redis.distribute(pages(450), to=["a", "b"], strategy="random", idempotency_key=KEY)

    with ThreadPoolExecutor(6) as pool:
        reports = list(pool.map(give, range(6)))
    assert all(report == reports[0] for report in reports)
    assert accepted(redis) == 450
    sent = {message["headers"]["id"] for messages in mail(redis, *AGENTS).values() for message in messages}
    assert sent == {item.id for item in reports[0].items}
    store: Any = redis.runtime.store
    assert store.client.keys(store.keys.items("*")) == [], "what the others have staged is gone"
    assert redis.runtime.redis.distribution.counts() == {"distributions": 1, "items": 450}


@pytest.mark.parametrize(
    ("script", "number"), [("stage_items", 3), ("commit_items", 1), ("release_items", 1), ("release_items", 3)]
)
def test_who_runs_again_after_a_kill_has_given_all_items_out_once(
    redis: Orchestrator, redis_url: str, script: str, number: int
) -> None:
    with DistributingProcess(redis_url, ITEMS, script, number, KEY) as process:
        process.kill()
    report = redis.distribute(pages(ITEMS), to=list(AGENTS), idempotency_key=KEY)

    def all_arrived() -> bool:
        # A sweep has 0.4 s for it; on a busy machine it takes several.
        redis.runtime.redis.sweep()
        return sum(map(len, mail(redis, *AGENTS).values())) >= ITEMS

    eventually(all_arrived)
    sent = {item.id: item.agent for item in report.items}
    found = [(m["headers"]["id"], agent) for agent, messages in mail(redis, *AGENTS).items() for m in messages]
    assert len(found) == ITEMS
    assert dict(found) == sent
    assert accepted(redis) == ITEMS
