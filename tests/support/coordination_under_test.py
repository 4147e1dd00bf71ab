"""Apps whose leases are tested: in eager mode, or on a real Redis, with sessions in threads as owners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from celery import Celery

from orchestrator import Orchestrator, load_settings


def make(url: str, *, eager: bool = False) -> Orchestrator:
    """An app of a script that uses leases."""
    app = Celery("coordination", broker=url, set_as_current=False)
    app.conf.task_always_eager = eager
    return Orchestrator(app, load_settings(broker_url=url))


def close(orchestrator: Orchestrator) -> None:
    """Close its connections."""
    if not orchestrator.eager:
        orchestrator.runtime.store.client.close()
        orchestrator.runtime.store.pool.disconnect()
    orchestrator.app.close()


def in_session(orchestrator: Orchestrator, act: Callable[[], Any]) -> Future[Any]:
    """Run ``act`` in a thread with a session of its own."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            with orchestrator.monitors.session():
                done.set_result(act())
        except BaseException as error:  # noqa: BLE001
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


@contextmanager
def held_elsewhere(orchestrator: Orchestrator, name: str, **options: Any) -> Iterator[threading.Event]:
    """A lease that another session holds until the event is set, or the block ends."""
    got, stop = threading.Event(), threading.Event()

    def hold() -> None:
        with orchestrator.lease(name, **options):
            got.set()
            stop.wait(30)

    done = in_session(orchestrator, hold)
    assert got.wait(10) or done.exception() is None
    try:
        yield stop
    finally:
        stop.set()
        done.result(10)
