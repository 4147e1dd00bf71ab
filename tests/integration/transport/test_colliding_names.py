"""Names that users choose (queues, ids, idempotency keys) never meet in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Agent, Message, Orchestrator, Status, handles
from orchestrator.core.keys import GROUP, Keys
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.redis.store import RedisDeadLetterStore
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker

KEYS = Keys()


class Text(Message):
    text: str = ""


class Clerk(Agent):
    name = "t"

    @handles(Text)
    def read(self, message: Text) -> None:
        """Never run here."""


def _plain(*args: Any) -> None:
    """Never run here."""


@pytest.fixture(params=[False, True], ids=["redis", "eager"])
def orchestrator(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Orchestrator]:
    app = Celery("names", broker=redis_url, set_as_current=False)
    app.conf.task_always_eager = request.param
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    for name in ("t", "t:a"):
        app.task(_plain, shared=False, name=name, ignore_result=True)
    yield orchestrator
    app.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_idempotency_keys_of_two_recipients_are_two(orchestrator: Orchestrator) -> None:
    """Regression: of the recipient `t:a` with the key `k` and `t` with `a:k`, the second was silently not sent."""
    plain = orchestrator.app.signature
    deliveries = [
        orchestrator.send(plain("t:a"), idempotency_key="k"),
        orchestrator.send(plain("t"), idempotency_key="a:k"),
        orchestrator.send("t", Text(), idempotency_key="a:k"),
    ]
    assert len({delivery.id for delivery in deliveries}) == 3
    assert orchestrator.send(plain("t"), idempotency_key="a:k").id == deliveries[1].id


#: Ids that are the names of keys of the delivery `x`.
NAMES_OF_X = [KEYS.outcome_hooks("x"), KEYS.outcome("x")]


@pytest.mark.parametrize("other", NAMES_OF_X)
def test_a_delivery_whose_id_names_anothers_hooks_has_an_outcome_of_its_own(broker: BareBroker, other: str) -> None:
    k, store = broker.store.keys, broker.store
    store.run(
        *commands.accept(
            k, "box", "0", "{}",
            idempotency_key=k.idempotency("", "t", "k"), delivery="x", member="0|x", ttl_ms=1000, pending_ms=60_000,
        )
    )  # fmt: skip
    store.run(*commands.publish(k.stream("box", "0"), k.ledger("box"), ["{}"]))
    broker.redis.xgroup_create(k.stream("box", "0"), GROUP, id="0")
    ((_, entries),) = broker.redis.xreadgroup(GROUP, "w", {k.stream("box", "0"): ">"})
    for (entry, _), id_ in zip(entries, ("x", other), strict=True):
        keys = [k.stream("box", "0"), k.ledger("box"), k.outcome(id_)]
        assert (
            store.run(
                *commands.settle_with_outcome(
                    keys[0], keys[1], keys[2], entry, "handled", '{"outcome":"handled"}', 1000
                )
            )
            == 1
        )
    assert broker.redis.lrange(k.outcome(other), 0, -1) == ['{"outcome":"handled"}']


def test_a_queue_is_not_deleted_by_what_happens_in_another(broker: BareBroker) -> None:
    """Regression: what lay in a queue `box|nothing` was gone when something in `box` was tried again."""
    k, store = broker.store.keys, broker.store
    for queue in ("box", "box|nothing"):
        store.run(*commands.publish(k.stream(queue, "0"), k.ledger(queue), ["{}"]))
    broker.redis.xgroup_create(k.stream("box", "0"), GROUP, id="0")
    ((_, ((entry, _),)),) = broker.redis.xreadgroup(GROUP, "w", {k.stream("box", "0"): ">"})
    store.run(*commands.retry(k, "box", k.stream("box", "0"), entry, "0|x", "{}", 0, ttl_ms=1000))
    store.run(*commands.declare_flow(k, "box", {"root": k.root}, serves=True, has_bound=False, has_breaker=False))
    store.run(*commands.requeue_held(k, "box", k.stream("box", "0"), [entry], max_deaths=3, ttl_ms=1000, by="me"))
    assert broker.redis.xlen(k.stream("box|nothing", "0")) == 1


@pytest.mark.parametrize("task_id", NAMES_OF_X)
def test_a_task_id_that_names_anothers_hooks_can_be_looked_for(orchestrator: Orchestrator, task_id: str) -> None:
    first = orchestrator.app.signature("t", task_id="x")
    orchestrator.send(first, idempotency_key="k")
    other = orchestrator.send(orchestrator.app.signature("t", task_id=task_id))
    assert other.status() is (Status.HANDLED if orchestrator.eager else Status.PENDING)


def test_letters_of_an_error_that_is_called_like_a_sum_are_found_apart(broker: BareBroker) -> None:
    log = DeadLetters(RedisDeadLetterStore(broker.store), ())
    long = "E" * 101
    looks_like = KEYS.letters("error", long).rpartition("letters:error:")[2]
    for error in (long, looks_like):
        store, k = broker.store, broker.store.keys
        letter, attempt = (
            '{"reason":"exception","queue":"box"}',
            commands.Attempt(k.last_publishes(0), f"token-{error}"),
        )
        store.run(*commands.dead_letter_unsent(k, "box", "{}", letter, "exception", error, "", attempt=attempt))

    def found(error: str) -> list[DeadLetter]:
        return list(log.query(error=error).page(10).letters)

    assert [len(found(error)) for error in (long, looks_like)] == [1, 1]
