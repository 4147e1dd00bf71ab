"""What is held is neither copied nor sent to another process: there is one object for it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

from orchestrator import Orchestrator

ACQUIRE: dict[str, Callable[[Orchestrator], Any]] = {
    "lease": lambda orchestrator: orchestrator.lease("month").acquire(),
    "leadership": lambda orchestrator: orchestrator.election("leader").campaign(),
    "permit": lambda orchestrator: orchestrator.semaphore("api", 1).acquire(),
    "checkout": lambda orchestrator: orchestrator.pool("gpu", ["gpu0"]).checkout(),
    "arrival": lambda orchestrator: orchestrator.barrier("phase", 2).arrive("a"),
    "lease that is not acquired": lambda orchestrator: orchestrator.lease("month"),
}


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("what", ACQUIRE)
def test_what_is_held_is_not_copied(orchestrator: Orchestrator, what: str) -> None:
    """Regression: a copy could be released beside it, and pickle named a function of the library as the reason."""
    held = ACQUIRE[what](orchestrator)
    # The last one is what multiprocessing does with the arguments of a process that it spawns.
    for take_along in (copy.copy, copy.deepcopy, pickle.dumps, ForkingPickler.dumps):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled: .*; allowed: to send its name"):
            take_along({"held": [held]} if take_along is not copy.copy else held)
    if what not in ("arrival", "lease that is not acquired"):
        held.check()
        assert held.release()
