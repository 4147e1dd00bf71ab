"""Events as Prometheus metrics, made from the contract: a counter for each event, and what it measures."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server

from orchestrator.telemetry.emit import Event
from orchestrator.telemetry.events import EventName, contract

#: Metadata that may become labels. Ids and error texts never do: each new value would be a new time series.
LABELS: Final = ("agent", "message", "queue", "reason", "strategy", "workflow", "state")

#: A message's way through a worker, and a pause before a retry. In seconds.
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)


def _metric_name(event: str) -> str:
    return "orchestrator_" + event.replace(".", "_")


class PrometheusHandler:
    """Counts events as ``orchestrator_<event>_total``, and observes what they measure.

    Measurements whose name ends in ``_s`` are histograms of seconds (``orchestrator_<event>_<measurement>``), the
    others are counters that grow by what was measured.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, names: Iterable[EventName] | None = None) -> None:
        self._counters: dict[str, Counter] = {}
        self._measured: dict[tuple[str, str], Counter | Histogram] = {}
        self._labels: dict[str, tuple[str, ...]] = {}
        for event in contract() if names is None else names:
            labels = tuple(label for label in LABELS if label in event.metadata)
            name = _metric_name(event)
            self._labels[event] = labels
            self._counters[event] = Counter(name, event.meaning, labels, registry=registry)
            for measurement in event.measurements:
                text = f"{event.meaning} {measurement}"
                metric: Counter | Histogram
                if measurement.endswith("_s"):
                    full = f"{name}_{measurement.removesuffix('_s')}_seconds"
                    metric = Histogram(full, text, labels, registry=registry, buckets=_BUCKETS)
                else:
                    metric = Counter(f"{name}_{measurement}", text, labels, registry=registry)
                self._measured[event, measurement] = metric

    def __call__(self, event: Event) -> None:
        """Count one event; one that is not in the contract is passed over."""
        labels = self._labels.get(event.name)
        if labels is None:
            return
        values = [str(event.metadata.get(label, "")) for label in labels]
        counter = self._counters[event.name]
        (counter.labels(*values) if labels else counter).inc()
        for name, value in event.measurements.items():
            metric = self._measured.get((event.name, name))
            if metric is None:
                continue
            child = metric.labels(*values) if labels else metric
            if isinstance(child, Histogram):
                child.observe(value)
            elif value >= 0:
                child.inc(value)


#: Number of ports that are tried, from the setting's on: at most this many workers of a host have one each.
PORTS: Final = 100


def serve(first_port: int, registry: CollectorRegistry = REGISTRY) -> int:
    """Answer scrapes on the loopback interface, on the first free port from ``first_port`` on; returns it.

    Raises:
        OSError: none of them is free.
    """
    last_port = min(first_port + PORTS - 1, 65535)
    for port in range(first_port, last_port + 1):
        try:
            start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise OSError(errno.EADDRINUSE, f"no port from {first_port} to {last_port} is free")
