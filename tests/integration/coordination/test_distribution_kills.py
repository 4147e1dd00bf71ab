"""A sender that is killed sends all items or none; lost answers double none; what is accepted is put in by a sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, Orchestrator
from orchestrator.coordination.distribution import commands
from orchestrator.transport.redis.scripts import script_of
from tests.support.distributing_process import AGENTS, DistributingProcess
from tests.support.eventually import eventually
from tests.support.living_agents import Page, close, live, mail, make, reader
from tests.support.lost_answers import LostAnswers

ITEMS = 1000


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url, *map(reader, AGENTS))
    live(made, *AGENTS)
    yield made
    close(made)


def staged_keys(orchestrator: Orchestrator) -> list[str]:
    store: Any = orchestrator.runtime.store
    return [key.decode() for key in store.client.keys(store.keys.items("*"))]


def numbers(orchestrator: Orchestrator) -> list[int]:
    """The numbers of the pages in the mailboxes, one for each message."""
    bodies = [
        message["headers"]["argsrepr"] for messages in mail(orchestrator, *AGENTS).values() for message in messages
    ]
    return sorted(int(body.partition("'number': ")[2].partition(",")[0]) for body in bodies)


@pytest.mark.parametrize(("script", "number"), [("stage_items", 3), ("commit_items", 1)])
def test_a_sender_killed_before_all_is_accepted_has_sent_nothing(
    orchestrator: Orchestrator, redis_url: str, script: str, number: int
) -> None:
    store: Any = orchestrator.runtime.store
    with DistributingProcess(redis_url, ITEMS, script, number) as process:
        (key,) = staged_keys(orchestrator)
        assert store.client.llen(key) == 2 * (400 if script == "stage_items" else ITEMS)
        assert mail(orchestrator, *AGENTS) == {"a": [], "b": []}
        process.kill()
    orchestrator.runtime.redis.timers.run()
    assert numbers(orchestrator) == []
    assert 0 < store.client.pttl(key) <= 60_000, "what is staged goes by itself"
    assert orchestrator.ledger() == [] or all(row.accepted == 0 for row in orchestrator.ledger())


def test_of_a_sender_killed_after_all_is_accepted_a_sweep_sends_everything(
    orchestrator: Orchestrator, redis_url: str
) -> None:
    with DistributingProcess(redis_url, ITEMS, "release_items", 3) as process:
        assert len(numbers(orchestrator)) == 400
        process.kill()
    store: Any = orchestrator.runtime.store
    (key,) = staged_keys(orchestrator)
    assert store.client.pttl(key) == -1, "it does not expire any more"

    def is_released() -> bool:
        # A sweep has 0.4 s for it; on a busy machine it takes several.
        orchestrator.runtime.redis.sweep()
        return not staged_keys(orchestrator)

    eventually(is_released)
    assert numbers(orchestrator) == list(range(ITEMS))
    assert {row.queue: row.accepted for row in orchestrator.ledger()} == {"a": ITEMS // 2, "b": ITEMS // 2}
    assert store.client.zcard(store.keys.timers) == 0


def test_two_who_put_items_in_put_in_each_once(orchestrator: Orchestrator, redis_url: str) -> None:
    """A sweep, and the sender that is only slow."""
    with DistributingProcess(redis_url, ITEMS, "release_items", 3) as process:
        store: Any = orchestrator.runtime.store
        (key,) = staged_keys(orchestrator)
        id = key.removeprefix(store.keys.items(""))
        assert orchestrator.runtime.redis.distribution._run(commands.release_items(store.keys, id, 200)) == 400
        assert process.resume() == 0
        assert numbers(orchestrator) == list(range(ITEMS))


@pytest.mark.parametrize("script", ["stage_items", "commit_items", "release_items"])
def test_a_lost_answer_doubles_nothing(orchestrator: Orchestrator, redis_url: str, script: str) -> None:
    sha = script_of("orchestrator.coordination.distribution", script).sha
    with LostAnswers(redis_url) as proxy:
        far = make(proxy.url, *map(reader, AGENTS))
        far.distribute([Page(number=0)], to=["a"])
        orchestrator.runtime.store.client.delete(orchestrator.runtime.store.keys.stream("a", "0"))
        proxy.lose(1, sha, done_first=True)
        report = far.distribute([Page(number=at) for at in range(450)], to=list(AGENTS))
        assert proxy.left == 0
        close(far)
    assert len(report.items) == 450
    assert orchestrator.runtime.redis.distribution.counts() == {"distributions": 2, "items": 451}
    assert numbers(orchestrator) == list(range(450))


def test_items_that_have_expired_are_not_accepted_in_part(orchestrator: Orchestrator, monkeypatch: Any) -> None:
    distribution: Any = orchestrator.runtime.redis.distribution
    run = distribution._run
    store: Any = orchestrator.runtime.store

    def expiring(call: Any) -> Any:
        if call[0] == "commit_items":
            store.client.delete(*staged_keys(orchestrator))
        return run(call)

    monkeypatch.setattr(distribution, "_run", expiring)
    with pytest.raises(BrokerUnavailable, match="the staged items are not there any more; nothing was sent"):
        orchestrator.distribute([Page(number=at) for at in range(250)], to=["a"])
    assert numbers(orchestrator) == []


def test_a_slice_whose_predecessors_have_expired_is_not_staged(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    run = orchestrator.runtime.redis.distribution._run
    item = ("0", "a", json.dumps({}))
    assert run(commands.stage_items(store.keys, "d", [item], before=0, keep_ms=1000)) == 1
    assert run(commands.stage_items(store.keys, "d", [item], before=0, keep_ms=1000)) == 1, "repeated"
    assert run(commands.stage_items(store.keys, "d", [item], before=2, keep_ms=1000)) == 0
    assert store.client.llen(store.keys.items("d")) == 2
    assert run(commands.release_items(store.keys, "d", 200)) == 0, "nothing is accepted"
    assert mail(orchestrator, "a") == {"a": []}


def test_large_items_are_put_in_by_the_megabyte(orchestrator: Orchestrator) -> None:
    distribution: Any = orchestrator.runtime.redis.distribution
    run, sizes = distribution._run, []

    def measured(call: Any) -> Any:
        if call[0] == "stage_items":
            sizes.append(sum(len(part) for part in call[2][2:]))
        return run(call)

    distribution._run = measured
    orchestrator.distribute([Page(number=at, text="x" * 100_000) for at in range(40)], to=list(AGENTS))
    assert len(numbers(orchestrator)) == 40
    assert max(sizes) < 1_200_000
