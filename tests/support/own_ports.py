"""Ports of servers that tests start: no two processes of the tests choose the same one."""

from __future__ import annotations

import itertools
import os
import re

from orchestrator.embedded import ports, server

#: Below those that the product chooses at random, a slice for each process of pytest-xdist.
_FIRST, _SLICE, _SLICES = 10_000, 1000, 10


def choose_own_ports() -> None:
    """Have :func:`orchestrator.embedded.ports.free_port` return the next port of this process.

    The product draws one at random. A test that stops a server and starts it again on its port would fail if another
    one had drawn this port meanwhile, and servers are started all the time.
    """
    number = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _SLICES
    # Two runs at the same time begin at different places.
    places = itertools.count(os.getpid())

    def next_port() -> int:
        own = (_FIRST + _SLICE * number + next(places) % _SLICE for _ in range(_SLICE))
        return next(port for port in own if ports._can_bind(port))

    name = "free_port"
    for module in (ports, server):
        assert hasattr(module, name)
        setattr(module, name, next_port)
