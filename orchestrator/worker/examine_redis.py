"""Examines Redis before a worker starts, and for a sender's log."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from celery import bootsteps

from orchestrator.core.errors import BrokerUnavailable, NotSupervised, UnsuitableRedis
from orchestrator.core.log import get_logger
from orchestrator.core.plural import counted
from orchestrator.transport.kombu_lists import left_in_lists
from orchestrator.transport.redis.checkup import Eviction, Level, gather, judge, look
from orchestrator.transport.store import Store

logger = get_logger(__name__)


class ExamineRedis(bootsteps.Step):
    """A step of the worker: refuses an unsuitable Redis before anything starts, if Redis answers by then."""

    requires = ("orchestrator.worker.bootsteps.validate_timeouts:ValidateTimeouts",)

    def __init__(self, parent: Any, **_: Any) -> None:
        orchestrator = getattr(parent.app, "orchestrator", None)
        if orchestrator is not None:
            orchestrator.runtime.redis.examination.run(tuple(parent.app.amqp.queues.consume_from))


class Examination:
    """A worker's examination of its app's Redis."""

    def __init__(self, open_store: Callable[[], Store], eviction: Eviction) -> None:
        self._open_store = open_store
        self._eviction = eviction
        self._warned: set[str] = set()
        #: Whether Redis was found suitable once. Later changes are logged, and do not stop the worker.
        self.passed = False

    def run(self, queues: Collection[str] = ()) -> None:
        """Examine Redis, if it replies. Logs problems that do not prevent a start, and unread messages of ``queues``.

        Raises:
            UnsuitableRedis: it cannot keep this library's guarantees.
        """
        try:
            store = self._open_store()
            try:
                facts = store.ask(lambda call: gather(call, store.keys, configuration=False))
                levels = [level for level in store.levels if level.isdigit()]
                prefix = store.keys.root.removesuffix("orc:")
                left = store.ask(lambda call: left_in_lists(call, prefix, queues, levels))
            finally:
                store.pool.disconnect()
        except (BrokerUnavailable, NotSupervised):
            # Not available yet, or not supervised: logged elsewhere.
            return
        findings = judge(facts, self._eviction)
        failed = [f"{finding.check}: {finding.text}" for finding in findings if finding.level is Level.FAIL]
        if failed and not self.passed:
            raise UnsuitableRedis(store.url, failed)
        self.passed = True
        for finding in findings:
            if finding.level is not Level.OK and finding.text not in self._warned:
                self._warned.add(finding.text)
                log = logger.error if finding.level is Level.FAIL else logger.warning
                log("Redis at %s: %s: %s (see `orchestrator doctor`)", store.url, finding.check, finding.text)
        for queue, count in left.items():
            logger.warning(
                "queue %s: %s in the Redis lists of kombu's own transport, which this worker does not read (LLEN %s); "
                "have a worker on that transport empty them",
                queue, counted(count, "message"), queue,
            )  # fmt: skip


def warn_sender(store: Store, eviction: Eviction) -> None:
    """Log the problems of a sender's Redis that one command can find."""
    try:
        findings = judge(store.ask(look), eviction)
    except BrokerUnavailable:
        return
    for finding in findings:
        if finding.level is Level.FAIL:
            logger.warning("Redis at %s: %s: %s (see `orchestrator doctor`)", store.url, finding.check, finding.text)
