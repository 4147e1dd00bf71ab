"""Waits for what Redis writes to a raw connection."""

from __future__ import annotations

import selectors
from typing import Any


def is_readable(connection: Any, wait_s: float) -> bool:
    """Whether Redis writes something, or closes the connection, within ``wait_s`` seconds.

    Not ``connection.can_read()``, which in some versions of redis-py is true without anything to read; and not
    ``select.select``, which takes no file above 1023, as busy servers have.

    Raises:
        OSError, ValueError: the connection was closed here.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(connection._sock, selectors.EVENT_READ)
        return bool(selector.select(wait_s))
