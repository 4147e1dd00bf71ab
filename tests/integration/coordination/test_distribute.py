"""Items given out to agents as users see it: the same in eager mode and on Redis."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import (
    Breaker,
    Dead,
    DetachedDelivery,
    DistributionRefused,
    Handled,
    InvalidPolicy,
    Mailbox,
    Message,
    MessageTooLarge,
    Needs,
    NoAgents,
    Orchestrator,
    Refusal,
    UnknownAgent,
    UnknownMessage,
)
from orchestrator.telemetry import attach, detach
from tests.support.living_agents import Cover, Page, close, end, live, mail, make, reader

AGENTS = (
    reader("a", "ocr", "gpu"),
    reader("b", "ocr"),
    reader("c", "ocr", "cpu"),
    reader("small", "bounded", mailbox=Mailbox(limit=5)),
    reader("dropping", "bounded", mailbox=Mailbox(limit=5, overflow="drop_oldest")),
    reader("careful", "slow", breaker=Breaker(failures=1, open_s=3600)),
)
NAMES = tuple(agent.name for agent in AGENTS)


class Other(Message): ...


@pytest.fixture
def redis(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url, *AGENTS)
    live(made, *NAMES)
    yield made
    close(made)


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    if request.param == "redis":
        yield request.getfixturevalue("redis")
        return
    made = make("redis://127.0.0.1:1/0", *AGENTS, eager=True)
    yield made
    close(made)


def pages(count: int, **fields: Any) -> list[Page]:
    return [Page(number=number, **fields) for number in range(count)]


# -- who gets what


def test_items_go_to_the_agents_in_turn(orchestrator: Orchestrator) -> None:
    seen: list[Any] = []
    attach(seen.append, "distribution.sent", "distribution.refused")
    try:
        report = orchestrator.distribute(pages(7), to=["a", AGENTS[1], "c"])
    finally:
        detach(seen.append)
    assert report.counts == {"a": 3, "b": 2, "c": 2}
    assert [report.deliveries[item].agent for item in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]
    assert [(event.name, event.measurements["items"], event.metadata["strategy"]) for event in seen] == [
        ("distribution.sent", 7, "round_robin")
    ]
    assert report.left_out == {}


def test_each_item_is_one_message_of_its_agent_as_a_send_writes_it(redis: Orchestrator) -> None:
    redis.send_many("a", [Page(number=0, text="ü\n%s")], metadata={"job": 1}, timeout_s=3)
    redis.distribute([Page(number=0, text="ü\n%s"), Cover(title="%")], to=["a"], metadata={"job": 1}, timeout_s=3)
    sent, page, cover = mail(redis, "a")["a"]
    for message in (sent, page, cover):
        assert message["headers"].pop("id") == message["properties"]["correlation_id"]
        for changing in ("root_id", "origin"):
            message["headers"].pop(changing)
        for changing in ("correlation_id", "delivery_tag", "reply_to"):
            message["properties"].pop(changing)
    assert page == sent
    assert cover["headers"]["task"] == "a.Cover"
    (row,) = [row for row in redis.ledger() if row.queue == "a"]
    assert (row.accepted, row.ready) == (3, 3)


def test_named_items_keep_their_names(orchestrator: Orchestrator) -> None:
    report = orchestrator.distribute({"x": Page(number=1), "y": Cover(title="t")}, to=["a", "b"])
    assert {name: delivery.agent for name, delivery in report.deliveries.items()} == {"x": "a", "y": "b"}
    if orchestrator.eager:
        assert report.wait(1) == {"x": Handled("a 1"), "y": Handled("t")}


def test_the_least_loaded_are_those_with_the_fewest_messages_waiting_and_claimed(redis: Orchestrator) -> None:
    for _ in range(4):
        redis.send("a", Page(number=1))
    redis.send("b", Page(number=1))
    store: Any = redis.runtime.store
    store.client.xgroup_create(store.keys.stream("b", store.level_of(None)), "workers", 0)
    store.client.xreadgroup("workers", "w", {store.keys.stream("b", store.level_of(None)): ">"})
    report = redis.distribute(pages(7), to=["a", "b", "c"], strategy="least_loaded")
    assert report.counts == {"a": 0, "b": 3, "c": 4}
    again = redis.distribute(pages(3000), to=["a", "b", "c"], strategy="least_loaded")
    assert sorted(again.counts.values()) == [1000, 1000, 1000]


def test_balanced_and_greedy_look_at_slots(redis: Orchestrator) -> None:
    live(redis, "a", slots=2, number=2)
    assert redis.distribute(pages(8), to=["a", "b"], strategy="balanced").counts == {"a": 6, "b": 2}
    live(redis, "c", slots=9, number=3)
    assert redis.distribute(pages(4), to=["a", "b", "c"], strategy="greedy").counts == {"a": 0, "b": 0, "c": 4}


def test_needs_choose_living_agents_that_offer_all(orchestrator: Orchestrator) -> None:
    assert orchestrator.distribute(pages(2), to=Needs("ocr", "gpu")).counts == {"a": 2}
    assert orchestrator.distribute(pages(3), to=Needs("ocr")).counts.keys() >= {"a", "b", "c"}
    with pytest.raises(NoAgents, match=r"no living agent handles Page and offers gpu, cpu; agents that handle it, and"):
        orchestrator.distribute(pages(2), to=Needs("gpu", "cpu"))


def test_an_agent_that_no_worker_serves_gets_nothing(redis: Orchestrator) -> None:
    live(redis, "b", number=2)
    end(redis)
    report = redis.distribute(pages(3), to=["a", "b"])
    assert (report.counts, report.left_out) == ({"b": 3}, {"a": Refusal.DOWN})
    with pytest.raises(NoAgents, match="no living agent handles Page and offers gpu"):
        redis.distribute(pages(1), to=Needs("gpu"))
    end(redis, number=2)
    with pytest.raises(DistributionRefused, match=r"no item was sent: 3 items, and the agents take 0; .* a \(down\)"):
        redis.distribute(pages(3), to=["a", "b"])
    assert mail(redis, "a") == {"a": []}


# -- flow control


def test_a_bounded_mailbox_takes_what_it_has_room_for(redis: Orchestrator) -> None:
    report = redis.distribute(pages(20), to=["a", "small", "dropping"])
    assert report.counts == {"a": 10, "small": 5, "dropping": 5}
    report = redis.distribute(pages(4), to=["a", "small", "dropping"], strategy="random")
    assert report.counts == {"a": 4}
    assert report.left_out == {"small": Refusal.FULL, "dropping": Refusal.FULL}


def test_if_there_is_not_room_for_all_items_none_is_sent(redis: Orchestrator) -> None:
    seen: list[Any] = []
    attach(seen.append, "distribution.sent", "distribution.refused")
    try:
        with pytest.raises(DistributionRefused, match="11 items, and the agents take 10; these take") as refused:
            redis.distribute(pages(11), to=["small", "dropping"])
    finally:
        detach(seen.append)
    assert refused.value.members == {"small": "full", "dropping": "full"}
    assert (refused.value.items, refused.value.room) == (11, 10)
    assert mail(redis, "small", "dropping") == {"small": [], "dropping": []}
    assert [event.name for event in seen] == ["distribution.refused"]
    assert redis.distribute(pages(10), to=["small", "dropping"]).counts == {"small": 5, "dropping": 5}


@pytest.mark.parametrize("bounded", ["small", "dropping"])
def test_what_fills_up_meanwhile_is_found_when_the_items_are_accepted(
    redis: Orchestrator, monkeypatch: pytest.MonkeyPatch, bounded: str
) -> None:
    """Its room was read before others filled it; then the items are given out anew."""
    distribution = redis.runtime.redis.distribution
    read = distribution.states
    reads: list[int | None] = []

    def states(mailboxes: Any) -> Any:
        found = read(mailboxes)
        if not reads:
            for _ in range(3):
                redis.send(bounded, Page(number=1))
        reads.append(found[bounded].room)
        return found

    monkeypatch.setattr(distribution, "states", states)
    report = redis.distribute(pages(10), to=[bounded, "a"])
    assert reads == [5, 2]
    assert report.counts == {bounded: 2, "a": 8}
    assert {agent: len(messages) for agent, messages in mail(redis, bounded, "a").items()} == {bounded: 5, "a": 8}


def test_an_agent_with_an_open_breaker_gets_nothing(orchestrator: Orchestrator) -> None:
    orchestrator.breakers.isolate("careful", why="test")
    report = orchestrator.distribute(pages(3), to=["careful", "b"])
    assert (report.counts, report.left_out) == ({"b": 3}, {"careful": Refusal.OPEN})
    with pytest.raises(DistributionRefused, match=r"these take no more: careful \(open\)"):
        orchestrator.distribute(pages(1), to=["careful"])


# -- outcomes


def test_wait_returns_the_outcome_of_each_item() -> None:
    eager = make("redis://127.0.0.1:1/0", *AGENTS, eager=True)
    report = eager.distribute([Page(number=1), Page(number=-1)], to=["a", "b"])
    handled, dead = report.wait(1).values()
    assert handled == Handled("a 1")
    assert isinstance(dead, Dead)
    assert "page -1" in dead.error
    assert eager.dead_letters.count() == 1
    close(eager)


def test_what_has_no_outcome_in_time_is_none_and_all_of_that_time_is_waited(redis: Orchestrator) -> None:
    report = redis.distribute(pages(2), to=["a"])
    assert report.wait(0.2) == {0: None, 1: None}
    report.deliveries[0].cancel()
    assert [type(outcome).__name__ for outcome in report.wait(0.1).values()] == ["Cancelled", "NoneType"]


def test_a_report_can_be_pickled_and_has_no_connection_then(redis: Orchestrator) -> None:
    report = redis.distribute(pages(2), to=["a"])
    copy = pickle.loads(pickle.dumps(report))
    assert copy == report
    assert copy.counts == {"a": 2}
    with pytest.raises(DetachedDelivery):
        copy.wait(1)


# -- bad input: nothing is written


@pytest.mark.parametrize(
    ("give", "error", "text"),
    [
        (lambda o: o.distribute(pages(1), to=["a"], strategy="fair"), InvalidPolicy, "strategy='fair'"),
        (lambda o: o.distribute(pages(1), to=["a", "nobody"]), UnknownAgent, "unknown agent 'nobody'"),
        (lambda o: o.distribute(pages(1), to=[]), InvalidPolicy, "from 1 to 200 agents"),
        (lambda o: o.distribute(pages(1), to="a"), InvalidPolicy, "to='a'"),
        (lambda o: o.distribute(pages(1), to=[7]), InvalidPolicy, "to=7"),
        (lambda o: o.distribute(pages(1), to=["a", "b", "a"]), InvalidPolicy, "to=['a'] is not allowed; allowed: each"),
        (lambda o: o.distribute(Page(number=1), to=["a"]), InvalidPolicy, "a list of messages, or messages by their"),
        (lambda o: o.distribute([Page(number=1), 7, "x"], to=["a"]), InvalidPolicy, "['1: int', '2: str']"),
        (lambda o: o.distribute([], to=["a"]), InvalidPolicy, "items='0 of them' is not allowed; allowed: from 1 to"),
        (lambda o: o.distribute({}, to=Needs("ocr")), InvalidPolicy, "items='0 of them' is not allowed"),
        (lambda o: o.distribute({7: Page(number=1)}, to=["a"]), InvalidPolicy, "items=['7'] is not allowed"),
        (lambda o: o.distribute([Page(number=1), Other()], to=["a"]), UnknownMessage, "does not handle 'Other'"),
        (lambda o: o.distribute([Other()], to=Needs("ocr")), NoAgents, "no living agent handles Other"),
        (lambda o: o.distribute(pages(1), to=["a"], priority=11), InvalidPolicy, "priority=11"),
        (lambda o: o.distribute(pages(1), to=["a"]).wait(-1), InvalidPolicy, "timeout_s=-1"),
    ],
)
def test_bad_input_is_refused(
    orchestrator: Orchestrator, give: Callable[[Any], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as refused:
        give(orchestrator)
    assert text in str(refused.value)
    if not orchestrator.eager and "wait" not in text and "timeout_s" not in text:
        assert mail(orchestrator, *NAMES) == {name: [] for name in NAMES}


def test_one_item_that_is_too_large_refuses_all(redis: Orchestrator) -> None:
    limit = redis.runtime.store.options.max_message_bytes
    with pytest.raises(MessageTooLarge):
        redis.distribute([*pages(300), Page(number=1, text="x" * limit)], to=["a"])
    assert mail(redis, "a") == {"a": []}


# -- discover


def test_discover_finds_the_living_agents_that_offer_a_capability(redis: Orchestrator) -> None:
    live(redis, "b", slots=3, host="h2", number=2)
    redis.send("c", Page(number=1))
    found = sorted(redis.discover("ocr"), key=lambda one: (one.load, one.name))
    assert [(one.name, one.hosts, one.slots, one.waiting, one.load) for one in found] == [
        ("a", ("h1",), 1, 0, 0.0),
        ("b", ("h1", "h2"), 4, 0, 0.0),
        ("c", ("h1",), 1, 1, 1.0),
    ]
    assert redis.discover("ocr")[2].name == "c"
    assert sorted(one.name for one in redis.discover("ocr", max_load=0.5)) == ["a", "b"]
    assert [one.name for one in redis.discover(["ocr"], host="h2")] == ["b"]
    assert [one.name for one in redis.discover({"ocr", "cpu"})] == ["c"]
    assert redis.discover("unknown") == []
    end(redis)
    assert [one.name for one in redis.discover("ocr")] == ["b"]


def test_discover_refuses_what_is_no_capability(orchestrator: Orchestrator) -> None:
    bad: Any
    for bad in ("a b", [], 7):
        with pytest.raises(InvalidPolicy):
            orchestrator.discover(bad)
    assert [one.name for one in orchestrator.discover("gpu")] == ["a"]


def test_counts_of_all_strategies_add_up(orchestrator: Orchestrator) -> None:
    given: Counter[str] = Counter()
    for strategy in ("round_robin", "least_loaded", "balanced", "greedy", "random"):
        report = orchestrator.distribute(pages(5), to=["a", "b", "c"], strategy=strategy)
        assert sum(report.counts.values()) == 5
        given.update(report.counts)
    assert sum(given.values()) == 25
