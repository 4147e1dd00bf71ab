"""A worker's thread that reports messages that ended outside of an execution to Celery (see ``stream.py``)."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from orchestrator.core.log import get_logger
from orchestrator.core.redis_refusals import describe_outage
from orchestrator.transport.endings.stream import Ending, Endings, headers_of

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

#: Endings read at a time, at most.
_PAGE: Final = 200

#: Lease of the reader: after a read, no other worker of the app reads endings for this long.
_READER_S: Final = 15.0

#: How long a taken ending is held before another worker may take it, and how long heartbeats may prolong that.
_HOLD_S: Final = 60.0
_LONGEST_HOLD_S: Final = 600.0

#: Pause after the result backend could not be reached.
_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0

#: An ending is discarded after this many failed deliveries, lost connections not counted.
_FAILURES: Final = 10

#: After this long any worker delivers an ending, even if it knows neither the task nor the mailbox.
_ANYBODY_MS: Final = 30_000


def _worker_app() -> Celery | None:
    """The app of the Celery worker in this process, if there is one."""
    if "celery.worker.worker" not in sys.modules:
        return None
    from celery import _state

    app: Celery | None = _state.default_app
    return app


class EndingsDelivery:
    """Delivers endings to Celery. Its thread is started by the first ending."""

    def __init__(self, endings: Endings, heartbeat_endings: Endings) -> None:
        self._endings = endings
        #: Uses another connection, for the heartbeat's thread.
        self._heartbeat_endings = heartbeat_endings
        self._name = os.urandom(8).hex()
        #: Name of the app whose reader lease this worker has.
        self._app: str | None = None
        #: Id of the last ending that was read, and when to read from the first one again.
        self._after = "-"
        self._again_at = 0.0
        #: The ending that is being delivered, and since when. Guarded by the lock, so that a returned ending is not
        #: renewed.
        self._current: tuple[str, float] | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def wake(self) -> None:
        """Called when there are endings: deliver those that concern this process' app."""
        if self._thread is None and _worker_app() is not None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="orchestrator-endings", daemon=True)
            self._thread.start()
        self._wake.set()
        self._renew()

    def _renew(self) -> None:
        with self._lock:
            if self._current is not None and monotonic() - self._current[1] < _LONGEST_HOLD_S:
                self._heartbeat_endings.renew(self._current[0], _HOLD_S)

    def close(self) -> None:
        """Stop delivering. Taken endings go to another worker when their hold ends."""
        self._closed.set()
        self._wake.set()
        if self._app is not None:
            with suppress(RedisError, OSError):
                self._heartbeat_endings.stop_reading(self._app, self._name)

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
                logger.debug("task outcomes not reported to Celery yet: %s", describe_outage(error))
            except Exception:
                # The thread must survive: without it no ending would be delivered.
                logger.exception("task outcomes not reported to Celery yet: reporting them failed")
                self._closed.wait(_PAUSE_S)

    def deliver(self, app: Celery) -> bool:
        """Deliver the endings that concern the app. Returns ``False`` if the result backend cannot be reached.

        Raises:
            redis.exceptions.RedisError: the broker's Redis is away.
        """
        now = monotonic()
        if now >= self._again_at:
            self._after, self._again_at = "-", now + _ANYBODY_MS / 1000
        name = self._app = _name_of(app)
        while not self._closed.is_set():
            page = self._endings.read(name, self._name, _READER_S, self._after, _PAGE)
            if page is None:
                # When this worker becomes the reader, the other one may have left endings behind.
                self._app, self._again_at = None, 0.0
                return True
            self._report_dropped()
            if page.taken_for_ms is not None:
                self._look_again_in(page.taken_for_ms / 1000)
            for ending in page.endings:
                if not _concerns(app, ending, page.now_ms):
                    self._look_again_in((ending.at_ms + _ANYBODY_MS - page.now_ms) / 1000)
                elif self._closed.is_set() or not self._take_and_deliver(app, ending):
                    self._look_again_in(_PAUSE_S)
                    return False
            self._after = page.after
            if not page.has_more:
                return True
        return True

    def _report_dropped(self) -> None:
        if dropped := self._endings.take_dropped():
            logger.warning(
                "%d task outcomes not reported to Celery: Redis is nearly full, or too many were waiting or for too "
                "long; the result backend does not know how these tasks ended, and their errbacks were not called",
                dropped,
            )

    def _look_again_in(self, pause_s: float) -> None:
        self._again_at = min(self._again_at, monotonic() + max(_PAUSE_S, pause_s))

    def _take_and_deliver(self, app: Celery, ending: Ending) -> bool:
        if not self._endings.take(ending.id, _HOLD_S):
            self._look_again_in(_HOLD_S)
            return True
        with self._lock:
            self._current = ending.id, monotonic()
        try:
            error = self._end(app, ending)
        finally:
            with self._lock:
                self._current = None
        if error is None:
            self._endings.finish(ending.id)
            return True
        failures = self._endings.leave(ending.id, _PAUSE_S, failed=True)
        is_away = _is_away(app, error)
        named = headers_of(ending)
        if not is_away and failures >= _FAILURES:
            logger.error(
                "%s[%s]: state %s not stored in the result backend; discarded after %d failures",
                named.get("task"), named.get("id"), ending.state, failures, exc_info=error,
            )  # fmt: skip
            self._endings.finish(ending.id)
            return True
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2**failures)
        self._endings.leave(ending.id, pause_s, failed=False)
        if not is_away:
            self._look_again_in(pause_s)
            logger.debug(
                "%s[%s]: state %s not stored in the result backend yet: %s",
                named.get("task"),
                named.get("id"),
                ending.state,
                error,
            )
            return True
        # The next pass begins with the endings after it: the backend may refuse just this one.
        if not self._failing:
            logger.warning("result backend is unreachable; task states will be stored later (%s)", error)
        self._failing = True
        return False

    def _end(self, app: Celery, ending: Ending) -> Exception | None:
        """Report one ending to Celery; returns the error that was raised."""
        from orchestrator.transport.endings.end_for_celery import end_for_celery

        headers = headers_of(ending)
        if not isinstance(headers.get("id"), str) or not isinstance(headers.get("task"), str):
            logger.error("outcome report discarded, because it cannot be read: %r", ending.message[:200])
            return None
        try:
            end_for_celery(app, ending)
        except Exception as error:  # noqa: BLE001
            return error
        self._failing = False
        logger.info(
            "%s[%s]: state %s reported to Celery: %s",
            headers.get("task"), headers.get("id"), ending.state, ending.text[:300],
        )  # fmt: skip
        return None


def _name_of(app: Celery) -> str:
    """A name that all workers with the same app and tasks share: one of them reads the endings."""
    return hashlib.sha256("\0".join([app.main or "", *sorted(app.tasks)]).encode()).hexdigest()[:16]


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
    if isinstance(error, KeyError):
        # Celery's Redis backend counts it as a connection error; here it means a malformed signature.
        return False
    return isinstance(error, known) or bool(app.backend.exception_safe_to_retry(error))
