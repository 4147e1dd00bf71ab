"""Wait for an event that cannot announce itself. The only place in the tests that polls."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_POLL_S = 0.01


def eventually(
    predicate: Callable[[], Result], timeout_s: float = 10.0, describe: Callable[[], str] | None = None
) -> Result:
    """Return the predicate's first truthy answer; fail the test if there is none within `timeout_s`.

    `describe` adds to the failure's message, such as a process' log.
    """
    deadline_s = time.monotonic() + timeout_s
    never = threading.Event()
    while not (answer := predicate()):
        if time.monotonic() > deadline_s:
            name = getattr(predicate, "__qualname__", repr(predicate))
            more = f"\n{describe()}" if describe is not None else ""
            raise AssertionError(f"{name} was still {answer!r} after {timeout_s:g} s{more}")
        never.wait(_POLL_S)
    return answer
