"""No script deals with more than about 1 MB of messages at once, whatever their number: one step is bounded, and all
steps together do what one would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, InvalidPolicy, Orchestrator
from orchestrator.registry.mailboxes import read_mailboxes
from orchestrator.sending import broadcast as broadcasting
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.store import Store
from tests.apps import flow_app
from tests.support.bare_broker import BareBroker
from tests.support.letters_under_test import LettersInRedis, reasons

MEGABYTE = 1 << 20
MANY = 6

#: What one step may come to of messages of 1 MB: one, or two that together just pass the bound.
FEW = 2

#: Messages of 1 MB that one command may read at once, however small the ones before were (MOST_AT_ONCE in Lua).
AT_ONCE = 4


def message(name: str, size: int = MEGABYTE) -> str:
    return json.dumps({"headers": {"id": name, "orc": {"track": True}}, "body": "x" * size, "properties": {}})


def publish(broker: BareBroker, names: list[str], size: int = MEGABYTE, limit: int = 0) -> None:
    k = broker.store.keys
    for name in names:
        broker.store.run(
            *commands.publish(k.stream("large", "0"), k.ledger("large"), [message(name, size)], limit=limit)
        )


def declared(broker: BareBroker) -> None:
    k, store = broker.store.keys, broker.store
    store.run(*commands.declare(k, "large", store.streams("large")))


def length(broker: BareBroker) -> int:
    return int(broker.redis.xlen(broker.store.keys.stream("large", "0")))


class Calls:
    """The answers of scripts while a test runs, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[tuple[str, Any]] = []
        for owner in (Store, CommandConnection):
            monkeypatch.setattr(owner, "run", self._noting(owner.run))

    def _noting(self, run: Any) -> Any:
        def noting(owner: Any, script: Any, keys: Any, args: Any) -> Any:
            answer = run(owner, script, keys, args)
            self.answers.append((str(script), answer))
            return answer

        return noting

    def of(self, script: str) -> list[Any]:
        return [answer for name, answer in self.answers if name == script]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
def letters(redis_url: str) -> Iterator[LettersInRedis]:
    letter_store = LettersInRedis(redis_url, (), None)
    yield letter_store
    assert letter_store.index_problems() == []
    letter_store.close()


def dead_lettered(letters: LettersInRedis, count: int = MANY) -> list[str]:
    raws = [message(f"m{number}").encode() for number in range(count)]
    letter = reasons("retries exhausted", "ValueError", "no", ("/a/bank.py", "pay"), 1, "billing")
    return [letters.put(raw, letter) for raw in raws]


# -- mailboxes


def test_large_messages_behind_small_ones_are_not_all_claimed_at_once(broker: BareBroker) -> None:
    declared(broker)
    publish(broker, [f"s{n}" for n in range(40)], size=1)
    publish(broker, [f"m{n}" for n in range(2 * MANY)])
    k, store = broker.store.keys, broker.store
    call = commands.claim(k, ["large"], store.levels, "reader", 200)
    steps = []
    while answer := store.run(*call)[3::4]:
        steps.append([len(raw) for raw in answer])
    assert sum(map(len, steps)) == 40 + 2 * MANY
    assert all(sum(step) < (AT_ONCE + 1) * (MEGABYTE + 1000) for step in steps)


def _delete(broker: BareBroker, how: str) -> int:
    with broker.app.connection_for_write() as connection, connection.channel() as channel:
        if how == "purge":
            return int(channel.queue_purge("large"))
        channel.queue_delete("large")
        return 0


@pytest.mark.parametrize("how", ["purge", "delete"])
def test_a_mailbox_of_large_messages_is_emptied_in_parts(broker: BareBroker, calls: Calls, how: str) -> None:
    declared(broker)
    names = [f"m{number}" for number in range(MANY)]
    publish(broker, names)
    publish(broker, [f"s{number}" for number in range(150)], size=1)
    _delete(broker, how)
    assert sum(calls.of(how)) == MANY + 150
    assert calls.of(how)[1 : MANY // FEW + 1] != [0] * (MANY // FEW)
    assert all(dropped <= 100 for dropped in calls.of(how))
    assert len([dropped for dropped in calls.of(how) if 0 < dropped <= FEW]) >= MANY // FEW - 1
    assert length(broker) == 0
    ended = {json.loads(broker.redis.lindex(broker.store.keys.outcome(name), -1))["outcome"] for name in names}
    assert ended == {"cancelled"}
    row = broker.ledger("large")
    assert (row.accepted, row.cancelled, row.pending) == (MANY + 150, MANY + 150, 0)


@pytest.mark.parametrize("how", ["purge", "delete"])
def test_emptying_a_mailbox_ends_though_others_publish_faster(
    broker: BareBroker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Regression: it went on for as long as there was a message."""
    declared(broker)
    publish(broker, [f"m{number}" for number in range(10)], size=1)
    came: list[str] = []
    k, run = broker.store.keys, CommandConnection.run

    def busy(wire: CommandConnection, script: Any, keys: Any, args: Any) -> Any:
        answer = run(wire, script, keys, args)
        if script == how:
            assert len(came) < 500, "it does not end"
            came.append(f"n{len(came)}")
            publish(broker, [came[-1]], size=1)
            later = message(f"l{len(came)}", 1)
            broker.store.run(*commands.delay(k, "large", f"0|{len(came)}", later, 60_000))
        return answer

    monkeypatch.setattr(CommandConnection, "run", busy)
    _delete(broker, how)
    assert not broker.redis.exists(k.outcome("n0")) or how == "delete"
    assert all(broker.redis.exists(k.outcome(f"m{number}")) for number in range(10))
    row = broker.ledger("large")
    assert row.accepted == 10 + 2 * len(came)
    # The mailbox is there for what came meanwhile, and its ledger is balanced.
    assert row.pending == row.accepted - row.cancelled >= 1


def test_a_queue_with_a_longest_length_gets_shorter_with_each_publish(broker: BareBroker) -> None:
    """Regression: each publish read all that waited, and the first one dropped all that was too much."""
    declared(broker)
    publish(broker, [f"s{number}" for number in range(100)], size=1)
    lengths = []
    for number in range(8):
        publish(broker, [f"n{number}"], size=1, limit=5)
        lengths.append(length(broker))
    assert lengths == [80, 60, 40, 20, 5, 5, 5, 5]
    row = broker.ledger("large")
    assert (row.expired, row.ready) == (103, 5)


def test_a_queue_with_a_longest_length_drops_few_large_messages_at_once(broker: BareBroker) -> None:
    declared(broker)
    publish(broker, [f"m{number}" for number in range(MANY)])
    before = length(broker)
    publish(broker, ["n"], size=1, limit=1)
    assert before + 1 - length(broker) <= FEW
    for number in range(MANY):
        publish(broker, [f"n{number}"], size=1, limit=1)
    assert length(broker) == 1


def test_what_a_full_mailbox_drops_is_bounded(broker: BareBroker) -> None:
    k = broker.store.keys
    declared(broker)
    publish(broker, [f"s{number}" for number in range(100)], size=1)
    flow = {"root": k.root, "queue": "large", "levels": "0", "group": "workers", "limit": 5, "overflow": "drop_oldest"}
    broker.redis.hset(k.flow("large"), mapping={**flow, "warn_from": 100, "outcome_ttl_ms": 1000})
    lengths = []
    for number in range(6):
        publish(broker, [f"n{number}"], size=1)
        lengths.append(length(broker))
    assert lengths == [80, 60, 40, 20, 5, 5]
    assert broker.ledger("large").dead == 101
    assert len(broker.letters()) == 101


def test_the_state_of_mailboxes_with_large_messages_is_read_in_parts(broker: BareBroker, calls: Calls) -> None:
    k, store = broker.store.keys, broker.store
    queues = [f"q{number}" for number in range(MANY)]
    for queue in queues:
        store.run(*commands.declare(k, queue, store.streams(queue)))
        for size in (MEGABYTE, 1, 1):
            store.run(*commands.publish(k.stream(queue, "0"), k.ledger(queue), [message("m", size)]))
    found = read_mailboxes(store, [])
    assert [(one.queue, one.waiting) for one in found] == [(queue, 3) for queue in queues]
    assert all(one.oldest_waiting_s is not None for one in found)
    assert max(map(len, calls.of("mailbox_states"))) <= FEW


def test_the_ledger_of_many_mailboxes_is_read_in_parts(broker: BareBroker, calls: Calls) -> None:
    k, store = broker.store.keys, broker.store
    for number in range(230):
        store.run(*commands.declare(k, f"q{number}"))
        store.run(*commands.publish(k.stream(f"q{number}", "0"), k.ledger(f"q{number}"), ["{}"]))
    assert broker.ledger().ready == 230
    assert [len(answer) for answer in calls.of("mailbox_depths")] == [100, 100, 30]


# -- dead letters


def test_large_letters_are_removed_in_parts(letters: LettersInRedis, calls: Calls) -> None:
    ids = dead_lettered(letters)
    assert letters.log.query().purge(all=True) == MANY
    assert max(int(answer[0]) for answer in calls.of("purge_letters")) <= FEW
    assert [letter_id for answer in calls.of("purge_letters") for letter_id in answer[1:]] == [i.encode() for i in ids]
    assert letters.log.count() == 0
    assert letters.log.audit(1)[0].done == MANY


def test_large_letters_are_put_aside_in_parts(letters: LettersInRedis, calls: Calls) -> None:
    dead_lettered(letters)
    assert letters.log.query().park("note", all=True) == MANY
    assert max(int(answer[0]) for answer in calls.of("park_letters")) <= FEW
    assert letters.log.query(state="parked").count() == MANY
    assert letters.log.query(state="parked").unpark() == MANY
    assert letters.log.audit(1)[0].done == MANY


def test_retries_of_large_letters_are_planned_in_parts(letters: LettersInRedis) -> None:
    ids = dead_lettered(letters, 3 * MANY)
    looked_at = []
    while step := letters.letter_store.schedule(3, 1000, ["retries exhausted"], 100)[0]:
        looked_at.append(step)
    assert sum(looked_at) == 3 * MANY
    assert max(looked_at) <= AT_ONCE
    assert letters.redis.zrange(letters.keys.letters_due, 0, -1) == [i.encode() for i in ids]


@pytest.mark.parametrize("oldest_first", [True, False])
def test_the_log_is_searched_in_parts_where_letters_are_large(letters: LettersInRedis, oldest_first: bool) -> None:
    ids = dead_lettered(letters, 3 * MANY)
    found: list[str] = []
    low, high = "-", "+"
    while True:
        step = letters.letter_store.find((), "all", low, high, limit=1000, oldest_first=oldest_first)
        assert len(step.ids) <= AT_ONCE
        found += step.ids
        if not step.cursor:
            break
        low, high = (f"({step.cursor}", high) if oldest_first else (low, f"({step.cursor}")
    assert found == ids if oldest_first else found == ids[::-1]


def test_small_letters_are_searched_by_the_hundred(letters: LettersInRedis) -> None:
    ids = [letters.add_letter() for _ in range(120)]
    step = letters.letter_store.find((), "all", "-", "+", limit=1000, oldest_first=True)
    assert (list(step.ids), step.cursor) == (ids, "")


def test_large_letters_are_replayed_in_parts(letters: LettersInRedis, calls: Calls) -> None:
    dead_lettered(letters)
    assert letters.log.query().replay(all=True).sent == MANY
    came_to = [answer[1] for answer in calls.of("replay_found") if answer]
    assert came_to
    assert max(came_to) <= FEW


def test_large_letters_are_taken_in_in_parts(letters: LettersInRedis, calls: Calls) -> None:
    dead_lettered(letters)
    lines = list(letters.log.query().export())
    letters.redis.flushall()
    assert letters.log.import_lines(lines) == (MANY, 0)
    assert [len(answer) for answer in calls.of("import_letters")] == [1] * MANY
    assert letters.log.audit(1)[0].done == MANY


# -- sending


def test_a_batch_s_messages_go_by_scripts_of_bounded_size(broker: BareBroker) -> None:
    with broker.app.connection_for_write() as connection, connection.channel() as channel:
        batch = channel.create_publish_batch(1000)
        for size, count in ((10, 250), (600_000, 5)):
            for number in range(count):
                channel.accept("large", "0", message(f"{size}-{number}", size), number, batch)
            sizes = [[len(text) for text in args[2:]] for _, _, args in batch._calls]
            assert [len(call) for call in sizes] == ([100, 100, 50] if size == 10 else [2, 2, 1])
            batch.flush()
    names = [json.loads(fields["m"])["headers"]["id"] for _, fields in broker.redis.xrange("orc:q:0:large")]
    assert names == [*(f"10-{number}" for number in range(250)), *(f"600000-{number}" for number in range(5))]


@pytest.fixture
def cluster(redis_url: str) -> Iterator[Orchestrator]:
    orchestrator = flow_app.make(redis_url)
    k, client = orchestrator.runtime.store.keys, orchestrator.runtime.store.client
    client.zadd(k.leases, {"nobody#1": 1})
    for queue in ("eu", "us", "small"):
        client.sadd(k.servers(queue), "nobody#1")
    yield orchestrator
    assert all(row.balanced for row in orchestrator.ledger())
    orchestrator.app.close()


def end(cluster: Orchestrator, queue: str, ended: str) -> None:
    """Have the next message of a mailbox end."""
    k, store = cluster.runtime.store.keys, cluster.runtime.store
    call = commands.claim(k, [queue], store.levels, "reader", 1)
    _, index, entry, raw, _ = store.run(*call)
    outcome = k.outcome(json.loads(raw)["headers"]["id"])
    text = json.dumps({"outcome": ended})
    store.run(*commands.settle_with_outcome(call[1][index - 1], k.ledger(queue), outcome, entry, ended, text, 1000))


def waiting(cluster: Orchestrator, queue: str) -> int:
    return next((row.ready for row in cluster.ledger() if row.queue == queue), 0)


@pytest.mark.parametrize("refused", [[], ["small"]])
def test_a_broadcast_goes_in_parts(
    cluster: Orchestrator, calls: Calls, monkeypatch: pytest.MonkeyPatch, refused: list[str]
) -> None:
    monkeypatch.setattr(broadcasting, "STEP_RECIPIENTS", 1)
    if refused:
        cluster.send_many("small", [flow_app.Work()] * 3)
    message = flow_app.Reprice()
    to: list[Any] = ["eu", "us"]
    report = cluster.broadcast(to, message, compensate=flow_app.Undo())
    assert [answer[0] for answer in calls.of("broadcast")] == [1, 1]
    assert not report.refused
    groups = list(cluster.runtime.store.client.keys("*orc:group:*"))
    assert [cluster.runtime.store.client.hget(key, "pending") for key in groups] == [b"2"]
    end(cluster, "eu", "handled")
    assert waiting(cluster, "eu") == 0
    end(cluster, "us", "dead")
    assert waiting(cluster, "eu") == 1, "who handled its copy is compensated"
    assert not cluster.runtime.store.client.keys("*orc:group:*")


def test_a_broadcast_whose_first_copies_have_ended_before_its_last_is_sent_compensates(
    cluster: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcasting, "STEP_RECIPIENTS", 1)
    run, ends = Store.run, iter(["handled", "dead"])

    def ending(store: Store, script: Any, keys: Any, args: Any) -> Any:
        answer = run(store, script, keys, args)
        if script == "broadcast":
            end(cluster, args[-5], next(ends))
        return answer

    monkeypatch.setattr(Store, "run", ending)
    cluster.broadcast(["eu", "us"], flow_app.Reprice(), compensate=flow_app.Undo())
    assert waiting(cluster, "eu") == 1
    assert not cluster.runtime.store.client.keys("*orc:group:*")


def test_all_or_nothing_is_refused_where_it_would_need_several_steps(
    cluster: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcasting, "MAX_AT_ONCE", 1)
    with pytest.raises(InvalidPolicy, match=r"all_or_nothing=.2 recipients, \d+ bytes.*at most 1 recipients"):
        cluster.broadcast(["eu", "us"], flow_app.Reprice(), strategy="all_or_nothing")
    with pytest.raises(InvalidPolicy, match=r"compensate=.2 recipients"):
        cluster.broadcast(["eu", "us"], flow_app.Reprice(), compensate=flow_app.Undo())
    assert sum(row.accepted for row in cluster.ledger()) == 0
    cluster.broadcast(["eu"], flow_app.Reprice(), strategy="all_or_nothing")
    cluster.broadcast(["eu", "us"], flow_app.Reprice())


def test_a_broadcast_that_stops_half_way_says_so(cluster: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasting, "STEP_RECIPIENTS", 1)
    run, calls = Store.run, iter([True, False])

    def failing(store: Store, script: Any, keys: Any, args: Any) -> Any:
        if script == "broadcast" and not next(calls):
            raise BrokerUnavailable(store.url, "gone")
        return run(store, script, keys, args)

    monkeypatch.setattr(Store, "run", failing)
    with pytest.raises(BrokerUnavailable):
        cluster.broadcast(["eu", "us"], flow_app.Reprice())
    assert (waiting(cluster, "eu"), waiting(cluster, "us")) == (1, 0)
