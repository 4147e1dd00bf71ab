"""Waits for one file, with any number."""

from __future__ import annotations

import select

READABLE, WRITABLE = select.POLLIN, select.POLLOUT


def becomes_ready(descriptor: int, event: int, wait_s: float) -> bool:
    """Whether a file is ``READABLE`` or ``WRITABLE``, or was closed at its other end, within ``wait_s`` seconds.

    Not ``select.select``, which takes no file above 1023: the supervisor of a large tree has more.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, wait_s) * 1000))
