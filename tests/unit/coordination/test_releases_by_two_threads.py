"""A release that Redis did not answer is run by one thread at a time, and never again once it was answered."""

from __future__ import annotations

import threading
from typing import Any

from orchestrator.coordination import commands
from orchestrator.coordination.late_releases import LateReleases
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt
from tests.support.eventually import eventually


def test_one_that_is_being_run_is_awaited_and_not_run_again() -> None:
    """Else both would emit that the permit has ended."""
    runs: list[Any] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def run(call: Any) -> None:
        runs.append(call)
        has_begun.set()
        assert may_end.wait(10)

    before = set(threading.enumerate())
    late = LateReleases(run)
    late.add(commands.release(Keys(), Kind.LEASE, "a", "token", "released", Attempt("", "")))
    assert has_begun.wait(10)
    asking = threading.Thread(target=late.run_now, args=(lambda call: True,))
    asking.start()
    may_end.set()
    asking.join(10)
    assert not asking.is_alive()
    eventually(lambda: not any(one.name == "orchestrator-release" for one in {*threading.enumerate()} - before))
    assert len(runs) == 1
