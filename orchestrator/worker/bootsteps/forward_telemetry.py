"""A bootstep of the consumer that forwards this library's events to Celery's monitors, Flower among them."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from orchestrator.celery_types import Consumer
from orchestrator.core.log import get_logger
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.registry.gauges import read_gauges
from orchestrator.telemetry import attach, detach
from orchestrator.telemetry.celery_events import TOLD, CeleryEventsHandler

logger = get_logger(__name__)


class ForwardTelemetry(bootsteps.StartStopStep):
    """Sends through the worker's own event dispatcher, so that ``worker_send_task_events`` (``-E``) switches it."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._handler: CeleryEventsHandler | None = None
        self._serving = False

    def start(self, consumer: Consumer) -> None:
        """Called on every (re)connection, which makes a new dispatcher."""
        self.stop(consumer)
        self._serve_metrics(consumer.app)
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None:
            # The dispatcher checks for each event whether events are on: Flower switches them on at run time.
            self._handler = CeleryEventsHandler(dispatcher.send, consumer.app.orchestrator.runtime.hidden.names)
            attach(self._handler, *TOLD)

    def _serve_metrics(self, app: Any) -> None:
        orchestrator = getattr(app, "orchestrator", None)
        port = orchestrator.settings.metrics_port if orchestrator is not None else 0
        if orchestrator is None or not port or self._serving:
            return
        from orchestrator.telemetry.gauge_collector import GaugeCollector
        from orchestrator.telemetry.prometheus import serve

        try:
            taken = serve(port)
            self._serving = True
            GaugeCollector(lambda: read_gauges(orchestrator.runtime.store, orchestrator.registry))
            HEALTH_REPORTER.publish(metrics_port=taken)
            logger.info("metrics on http://127.0.0.1:%d/metrics", taken)
        except OSError as error:
            # The worker runs without metrics rather than not at all.
            logger.error("metrics_port=%d: no metrics from this worker: %s", port, error)

    def stop(self, consumer: Consumer) -> None:
        """Called when the connection is lost or the worker stops."""
        if self._handler is not None:
            detach(self._handler)
            self._handler = None
