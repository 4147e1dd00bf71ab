"""The thread of a Celery worker that ends messages for Celery which ended outside of an execution (see endings.py)."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from orchestrator.core.log import get_logger
from orchestrator.transport.endings import Ending, Endings, headers_of

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

#: How many endings are looked at, and taken, at a time.
_PAGE: Final = 50
_TAKEN: Final = 10

#: No other worker has what this one has taken for so long; a backend that is away may take Celery 20 s for each try.
_HOLD_S: Final = 60.0

#: Pause after the result backend could not be reached.
_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0

#: An ending whose delivery fails this often, for another reason than a lost connection, is given up.
_FAILURES: Final = 10

#: After this long any worker delivers an ending, also one that knows neither the task nor the mailbox.
_ANYBODY_MS: Final = 30_000


def _worker_app() -> Celery | None:
    """The app of the Celery worker in this process, if there is one."""
    if "celery.worker.worker" not in sys.modules:
        return None
    from celery import _state

    app: Celery | None = _state.default_app
    return app


class EndingsDelivery:
    """Delivers while there is something to deliver. The thread begins with the first ending."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def wake(self) -> None:
        """There are endings; deliver those that concern this process' app."""
        if self._thread is None and _worker_app() is not None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="orchestrator-endings", daemon=True)
            self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Deliver no more. What has been taken goes to another worker in time."""
        self._closed.set()
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._closed.is_set():
                return
            self._wake.clear()
            try:
                app = _worker_app()
                if app is not None and not self.deliver(app):
                    self._closed.wait(_PAUSE_S)
            except (RedisError, OSError) as error:
                logger.debug("endings wait: Redis is away (%s)", error)
            except Exception:
                # Without this thread no ending would be delivered any more.
                logger.exception("endings wait: delivering them failed")
                self._closed.wait(_PAUSE_S)

    def deliver(self, app: Celery) -> bool:
        """Deliver what concerns the app. Returns ``False`` once the result backend cannot be reached.

        Raises:
            redis.exceptions.RedisError: the broker's Redis is away.
        """
        if dropped := self._endings.take_dropped():
            logger.warning(
                "%d task outcomes not reported to Celery: Redis is nearly full, or too many were waiting or for too "
                "long; the result backend does not know how these tasks ended, and their errbacks were not called",
                dropped,
            )
        after = "-"
        now_ms = self._endings.now_ms()
        while (page := self._endings.page(after, _PAGE)) and not self._closed.is_set():
            after = page[-1].id
            mine = [ending for ending in page if _concerns(app, ending, now_ms)]
            for at in range(0, len(mine), _TAKEN):
                lot = mine[at : at + _TAKEN]
                taken = self._endings.take([ending.id for ending in lot], _HOLD_S)
                if not self._deliver_lot(app, [ending for ending in lot if ending.id in taken]):
                    return False
        return True

    def _deliver_lot(self, app: Celery, lot: list[Ending]) -> bool:
        from orchestrator.transport.celery_endings import end_for_celery

        for at, ending in enumerate(lot):
            headers = headers_of(ending)
            if not isinstance(headers.get("id"), str) or not isinstance(headers.get("task"), str):
                logger.error("no message, and dropped from the endings: %r", ending.message[:200])
                self._endings.finish(ending.id)
                continue
            try:
                end_for_celery(app, ending)
            except Exception as error:
                if _is_away(app, error):
                    # Those behind it come first the next time: it may be this one that the backend refuses.
                    failures = self._endings.leave(ending.id, _PAUSE_S, failed=True)
                    self._endings.leave(ending.id, min(_LONGEST_PAUSE_S, _PAUSE_S * 2**failures), failed=False)
                    for left in lot[at + 1 :]:
                        self._endings.leave(left.id, 0, failed=False)
                    if not self._failing:
                        logger.warning("ends of tasks wait: the result backend is away (%s)", error)
                    self._failing = True
                    return False
                failures = self._endings.leave(ending.id, _PAUSE_S, failed=True)
                if failures < _FAILURES:
                    self._endings.leave(ending.id, min(_LONGEST_PAUSE_S, _PAUSE_S * 2**failures), failed=False)
                    logger.debug("the end of %s is not recorded yet: %s", headers.get("id"), error)
                    continue
                logger.exception(
                    "the end of %s[%s] (%s) is not recorded in the result backend; given up",
                    headers.get("task"), headers.get("id"), ending.state,
                )  # fmt: skip
            else:
                self._failing = False
                logger.info("%s[%s]: %s %s", headers.get("task"), headers.get("id"), ending.state, ending.text[:300])
            self._endings.finish(ending.id)
        return True


def _concerns(app: Celery, ending: Ending, now_ms: int) -> bool:
    """Whether this app's workers are to deliver it: they know the task or serve the mailbox, or nobody else does."""
    return (
        headers_of(ending).get("task") in app.tasks
        or ending.queue in app.amqp.queues.consume_from
        or now_ms - ending.at_ms > _ANYBODY_MS
    )


def _is_away(app: Celery, error: Exception) -> bool:
    """Whether the backend, or the broker of an errback, could not be reached."""
    from celery.exceptions import BackendError
    from kombu.exceptions import OperationalError

    known: Any = (RedisError, OSError, OperationalError, BackendError)
    return isinstance(error, known) or bool(app.backend.exception_safe_to_retry(error))
