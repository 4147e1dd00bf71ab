"""Housekeeping where beat has another scheduler than this library's: a thread of its process publishes the messages."""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery, signals
from kombu import Connection

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.schedules.housekeeping_message import prepare_message
from orchestrator.sending.mailbox import mailbox
from orchestrator.transport.transport import Transport

logger = get_logger(__name__)


def start_with_beat(app: Celery, interval_s: float) -> None:
    """Start a :class:`HousekeepingClock` in each beat service of the app, also embedded, that has another scheduler."""

    def on_beat_init(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is app and not getattr(sender.scheduler, "fires_from_redis", False):
            HousekeepingClock(app, sender, interval_s).start()

    signals.beat_init.connect(on_beat_init, weak=False)


class HousekeepingClock(threading.Thread):
    """Publishes a housekeeping message every ``interval_s`` until the beat service stops.

    Not an entry of ``beat_schedule``: user code, RedBeat and django-celery-beat replace, store and list those entries.
    Published through a kombu channel: Celery's publishing functions call the signal receivers of the user.
    """

    def __init__(self, app: Celery, service: Any, interval_s: float) -> None:
        super().__init__(name="orchestrator-housekeeping-clock", daemon=True)
        self._app = app
        self._service = service
        self._interval_s = interval_s
        self._connection: Connection | None = None
        self._failed = False

    def run(self) -> None:
        """Publish now, and then once per interval."""
        if not isinstance(self._app.connection_for_write().transport, Transport):
            logger.debug("no housekeeping messages: the broker is not supervised")
            return
        has_given_up = False
        while not self._service._is_stopped.is_set():
            self._publish_or_log()
            has_given_up = has_given_up or self._give_entries_up()
            if self._service._is_shutdown.wait(self._interval_s):
                break
        self._close()

    def _give_entries_up(self) -> bool:
        """Have no worker fire the entries that the user's own scheduler fires."""
        try:
            self._app.orchestrator.runtime.redis.scheduling.give_entries_up()
        except OrchestratorError as error:
            logger.debug("entries are not removed yet: %s", error)
            return False
        return True

    def _publish_or_log(self) -> None:
        try:
            self._publish()
        except Exception as error:  # noqa: BLE001
            self._close()
            if not self._failed:
                logger.error("housekeeping message not published, next try in %g s: %s", self._interval_s, error)
            self._failed = True
        else:
            if self._failed:
                logger.info("housekeeping messages are published again")
            self._failed = False

    def _publish(self) -> None:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
            # Bounds the mailbox, on this connection's channel.
            mailbox(HOUSEKEEPING_QUEUE, longest=1)(self._connection.default_channel).declare()
        channel = self._connection.default_channel
        channel.basic_publish(prepare_message(channel), exchange="", routing_key=HOUSEKEEPING_QUEUE)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except Exception:
                logger.debug("connection of the housekeeping clock not closed", exc_info=True)
