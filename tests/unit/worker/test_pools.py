"""Which pools are known: Celery's five, and what is derived from them without running messages in a way of its own."""

from __future__ import annotations

from typing import Any

import pytest
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool

from orchestrator.worker.pools import why_unknown


class Named(PreforkPool):
    """Differs in something else."""

    def _get_info(self) -> Any:
        return {}


class Looping(SoloPool):
    """As celery-aio-pool's, which runs messages in an event loop."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", PreforkPool, Named])
def test_a_known_pool_has_no_reason(pool: Any) -> None:
    assert why_unknown(pool) == ""


def test_a_pool_that_runs_messages_in_its_own_way_is_not_known() -> None:
    assert why_unknown(Looping) == (
        "the pool tests.unit.worker.test_pools:Looping is not known; known: prefork, solo, threads, gevent, eventlet"
    )
