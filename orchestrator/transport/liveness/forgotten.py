"""Whether a message was reserved and then lost: an error on its way to the pool leaves it in Celery's records alone.

Whatever is still to run a reserved request has a reference to it: a pool, a semaphore's queue, a timer, the bucket of a
rate limit, a batch. Celery's table of requests, which it looks up by id for ``inspect``, runs nothing.
"""

from __future__ import annotations

import sys
from typing import Any, Final
from weakref import ref


def _references(reference: ref[Any]) -> int:
    target = reference()
    return sys.getrefcount(target)


class _Probe:
    """Something that one variable refers to."""


def _counted_by_counting() -> int:
    probe = _Probe()
    return _references(ref(probe)) - 1


#: How many of the references that :func:`_references` finds are its own.
_OWN: Final = _counted_by_counting()


def is_forgotten(reference: ref[Any]) -> bool:
    """Whether nothing refers to a request but Celery's table of requests, so that it will not run."""
    return _references(reference) - _OWN <= int(_is_in_table(reference))


def _is_in_table(reference: ref[Any]) -> bool:
    state, request = sys.modules.get("celery.worker.state"), reference()
    return state is not None and request is not None and state.requests.get(request.id) is request
