"""Keeps the tasks that one test module shares out of the apps of the next."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from celery import _state


@contextmanager
def forgotten_afterwards() -> Iterator[None]:
    """Have tasks that the block declares be in no app that is made after it, and leave the current app as it was.

    Celery puts what is declared by ``@app.task`` or ``@shared_task`` into every app of the process that is finalized
    later. The tests' own apps declare theirs with ``shared=False``; the examples of the documentation do not.
    """
    # Celery's own shared tasks are declared when the first app is finalized.
    importlib.import_module("celery.app.builtins")
    before, current = set(_state._on_app_finalizers), _state._tls.current_app
    try:
        yield
    finally:
        _state._on_app_finalizers.intersection_update(before)
        _state._tls.current_app = current
