"""Two threads that use an Orchestrator first, at the same moment, use the same things."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.eager.eager_mode import EagerMode
from orchestrator.wiring.redis_mode import RedisMode


@pytest.mark.parametrize(("kind", "name"), [(EagerMode, "eager"), (RedisMode, "redis")], ids=["eager", "redis"])
def test_threads_that_come_first_together_share_one_mode(
    kind: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery("first", broker="redis://127.0.0.1:1/0", set_as_current=False)
    runtime = Orchestrator(app).runtime
    both = threading.Barrier(2)
    init: Any = vars(kind)["__init__"]

    def slowly(self: Any, *args: Any) -> None:
        # Whoever makes a second one comes here as well; with a lock, the first waits in vain.
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        init(self, *args)

    monkeypatch.setattr(kind, "__init__", slowly)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: getattr(runtime.modes, name), range(2))
    assert one is other
