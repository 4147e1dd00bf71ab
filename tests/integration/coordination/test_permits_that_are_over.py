"""A permit that has ended without a release is nobody's any more: the same in eager mode and on Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import InvalidPolicy, Orchestrator
from orchestrator.coordination.named_leases import Grant, NamedLeases, Wanted
from orchestrator.core.coordination.lease import Kind
from orchestrator.telemetry import attach, detach
from orchestrator.worker.execution.owner import Owner
from tests.support.coordination_under_test import in_session
from tests.support.eventually import eventually


def over(orchestrator: Orchestrator, wanted: Wanted) -> Grant:
    """A permit with a limit that has passed. As of one whose process was killed, nothing has noticed its end."""
    leases: NamedLeases = orchestrator.coordination._leases()
    grant = leases.acquire(wanted)
    eventually(lambda: not leases.is_held(grant))
    return grant


def ask_for_four(orchestrator: Orchestrator) -> Any:
    return orchestrator.semaphore("s", 4).acquire()


def ask_for_others(orchestrator: Orchestrator) -> Any:
    return orchestrator.pool("s", ["x", "y", "z"]).checkout()


@pytest.mark.parametrize(
    ("kind", "used_with", "ask"),
    [
        (Kind.SEMAPHORE, {"permits": 3}, ask_for_four),
        (Kind.POOL, {"permits": 2, "resources": ("a", "b")}, ask_for_others),
    ],
)
def test_what_is_over_keeps_nobody_from_another_number(
    orchestrator: Orchestrator, session: Any, kind: Kind, used_with: dict[str, Any], ask: Callable[[Orchestrator], Any]
) -> None:
    over(orchestrator, Wanted(kind, "s", Owner(session.id, "s"), 0, 1, **used_with))
    held = ask(orchestrator)
    with pytest.raises(InvalidPolicy, match="is in use"):
        over(orchestrator, Wanted(kind, "s", Owner(session.id, "s"), 0, 1, **used_with))
    assert held.release()
    over(orchestrator, Wanted(kind, "s", Owner(session.id, "s"), 0, 1, **used_with))


def test_a_block_that_overran_its_limit_gets_a_warning_and_the_limit_is_the_reason(
    orchestrator: Orchestrator, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    attach(told.append, "lease.ended")
    try:
        with caplog.at_level(logging.WARNING), orchestrator.lease("a", limit_s=0.001) as lease:
            eventually(lambda: not orchestrator.coordination._leases().is_held(lease._held))
        eventually(lambda: told)
    finally:
        detach(told.append)
    assert "lease a was held no more when it was released" in caplog.text
    ended = {"kind": "lease", "lease": "a", "owner": session.id, "fence": lease.fence, "reason": "limit"}
    assert [dict(event.metadata) for event in told] == [ended]
    assert not lease.release()


def test_a_release_after_the_limit_says_so_also_if_it_was_entered_again_or_another_waits(
    orchestrator: Orchestrator, session: Any
) -> None:
    # What is entered again is asked for within the limit, on any machine.
    first = orchestrator.lease("a", limit_s=1, reentrant=True).acquire()
    again = orchestrator.lease("a", reentrant=True).acquire()
    waits = in_session(orchestrator, lambda: orchestrator.lease("a", wait_s=10).acquire().fence)
    eventually(lambda: not orchestrator.coordination._leases().is_held(first._held))
    assert not again.release()
    assert not first.release()
    assert waits.result(10) > first.fence


def test_a_release_within_the_limit_is_one(orchestrator: Orchestrator, session: Any) -> None:
    assert orchestrator.lease("a", limit_s=60).acquire().release()
