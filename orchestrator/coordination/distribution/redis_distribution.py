"""Distributions in Redis: items are staged in slices, accepted in one step, and put into their mailboxes in slices."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, Final

from celery import Celery
from redis.exceptions import RedisError

from orchestrator.coordination.distribution import commands
from orchestrator.coordination.distribution.backend import AcceptedBefore, AgentState, OnceOnly, OutgoingItem
from orchestrator.coordination.distribution.item_texts import Item, write_items
from orchestrator.core.deliveries.outcome import Outcome, from_wire
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_counts
from orchestrator.registry.registry import Registry
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.delivery import Awaiter
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.redis_backend import RedisBackend
from orchestrator.sending.tracker import RedisTracker
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.lost_answers import again_if_lost
from orchestrator.transport.redis.patience import outlast
from orchestrator.transport.redis.scripts import script_of
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: Items of one slice, and bytes of their messages unless a single one has more.
_SLICE: Final = 200
_SLICE_BYTES: Final = 1024 * 1024

#: How long staged items stay that nobody accepts: their sender has died, or is slow with the next slice.
_STAGED_MS: Final = 60_000

#: How long it is known what became of an acceptance whose reply was lost.
_ANSWER_MS: Final = 900_000

#: Slices that one sweep puts into the mailboxes: less than half a second.
_MOST_SLICES: Final = 50

#: Agents that one command reads, and outcomes that one round trip reads.
_AGENTS: Final = 50
_OUTCOMES: Final = 500


class RedisDistribution:
    """Distributions in the Redis behind a store, which is opened when it is first needed."""

    def __init__(
        self,
        app: Celery,
        store: Callable[[], Store],
        backend: Callable[[], RedisBackend],
        registry: Callable[[], Registry],
        hidden: tuple[str, ...],
    ) -> None:
        self._app = app
        self._store = store
        self._backend = backend
        self._registry = registry
        self._hidden = hidden

    @property
    def awaiter(self) -> Awaiter:
        """See :class:`DistributionBackend`."""
        return self._backend().outcome

    @property
    def tracker(self) -> RedisTracker:
        """See :class:`DistributionBackend`."""
        return self._backend().tracker

    def prepare(self, message: OutgoingMessage) -> None:
        """See :class:`DistributionBackend`."""
        self._backend().prepare(message)

    def states(self, mailboxes: Mapping[str, str]) -> dict[str, AgentState]:
        """See :class:`DistributionBackend`."""
        store, states = self._store(), {}
        names = list(mailboxes)
        for first in range(0, len(names), _AGENTS):
            some = {name: mailboxes[name] for name in names[first : first + _AGENTS]}
            rows = self._run(commands.read_takers(store.keys, store.levels, some))
            for name, (slots, waiting, claimed, room, why) in zip(some, rows, strict=True):
                refusal = Refusal(why.decode()) if why else None
                states[name] = AgentState(slots, waiting, claimed, None if room < 0 else room, refusal)
        return states

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """See :class:`DistributionBackend`."""
        found: dict[str, set[str]] = {}
        for incarnation in self._registry().incarnations():
            for agent in incarnation.agents:
                found.setdefault(agent, set()).add(incarnation.host)
        return {agent: tuple(sorted(hosts)) for agent, hosts in found.items()}

    def accepted(self, key: str) -> str | None:
        """See :class:`DistributionBackend`."""
        store = self._store()
        try:
            raw: Any = store.client.get(store.keys.distribution_idempotency(key))
        except RedisError as error:
            raise BrokerUnavailable(store.url, error) from error
        return None if raw is None else str(raw.decode())

    def accept(self, id: str, items: Sequence[OutgoingItem], once: OnceOnly | None = None) -> Mapping[str, Refusal]:
        """See :class:`DistributionBackend`. What a sender that dies afterwards leaves behind, a sweep releases."""
        store = self._store()
        self._stage(store, id, items)
        counts = Counter(queue_name(item.like) for item in items)
        status, *refused = self._run(commands.commit_items(store.keys, id, counts, keep_ms=_ANSWER_MS, once=once))
        if status == b"lost":
            raise self._lost()
        if status == b"duplicate":
            raise AcceptedBefore(refused[0].decode())
        if status == b"accepted":
            try:
                self._release_all(id)
            except BrokerUnavailable as error:
                logger.warning("the items of distribution %s are accepted; a sweep puts them in: %s", id, error)
        return {queue.decode(): Refusal(why.decode()) for queue, why in refused}

    def _stage(self, store: Store, id: str, items: Sequence[OutgoingItem]) -> None:
        """Stage all items: while Redis takes one slice, the next is written."""
        staged = 0
        sent: Future[Any] | None = None
        with ThreadPoolExecutor(1, "distribute") as sender:
            for some in _slices(write_items(self._app, store, items, self._hidden)):
                if sent is not None and not sent.result():
                    raise self._lost()
                call = commands.stage_items(store.keys, id, some, before=staged, keep_ms=_STAGED_MS)
                sent = sender.submit(self._run, call)
                staged += len(some)
            if sent is not None and not sent.result():
                raise self._lost()

    def _lost(self) -> BrokerUnavailable:
        return BrokerUnavailable(self._store().url, "the staged items are not there any more; nothing was sent")

    def _release_all(self, id: str) -> None:
        while self._run(commands.release_items(self._store().keys, id, _SLICE)):
            pass

    def release(self, id: str) -> None:
        """Put accepted items into their mailboxes, as far as one sweep has time for it.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        for _ in range(_MOST_SLICES):
            if not self._run(commands.release_items(self._store().keys, id, _SLICE)):
                return

    def _run(self, call: Call) -> Any:
        store, (name, keys, args) = self._store(), call
        script = script_of("orchestrator.coordination.distribution", name)
        # Run again, each script goes on from what is there.
        return again_if_lost(lambda: store.run(script, keys, args))

    def outcomes(self, ids: Sequence[str], timeout_s: float) -> dict[str, Outcome]:
        """See :class:`DistributionBackend`. While Redis is away it waits for that too."""
        until = monotonic() + timeout_s
        store, waiting = outlast(until, self._store), list(ids)
        found: dict[str, Outcome] = {}
        try:
            while True:
                for first in range(0, len(waiting), _OUTCOMES):
                    some = waiting[first : first + _OUTCOMES]
                    raws = outlast(until, lambda some=some: _read(store, some))  # type: ignore[misc]
                    found |= {id: from_wire(json.loads(raw)) for id, raw in zip(some, raws, strict=True) if raw}
                waiting = [id for id in waiting if id not in found]
                if not waiting or monotonic() >= until:
                    return found
                # Most likely the others have ended by then.
                last = store.keys.outcome(waiting[-1])
                outlast(until, lambda last=last: store.sleep_on(last, until))  # type: ignore[misc]
        except RedisError as error:
            raise store.failure(error) from error

    def counts(self) -> Mapping[str, int]:
        """See :class:`DistributionBackend`."""
        store = self._store()
        try:
            raw: Any = store.client.hgetall(store.keys.coordination_counts)
        except RedisError as error:
            raise store.failure(error) from error
        return stored_counts(store.keys.coordination_counts, raw)


def _read(store: Store, ids: Sequence[str]) -> Any:
    pipeline = store.client.pipeline(transaction=False)
    for id in ids:
        pipeline.lindex(store.keys.outcome(id), 0)
    return pipeline.execute()


def _slices(items: Iterable[Item]) -> Iterator[list[Item]]:
    some: list[Item] = []
    size = 0
    for item in items:
        if some and (len(some) >= _SLICE or size + len(item[2]) > _SLICE_BYTES):
            yield some
            some, size = [], 0
        some.append(item)
        size += len(item[2])
    if some:
        yield some
