"""Gauges as Prometheus metrics, read when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestrator.core.errors import CallerError, InfrastructureError
from orchestrator.core.gauge import Gauge
from orchestrator.core.log import get_logger

logger = get_logger(__name__)


class GaugeCollector(Collector):
    """Calls ``read`` at each scrape; whatever it raises, the process' other metrics are served.

    While Redis is away, ``orchestrator_redis_up`` is 0 and the gauges are absent. With a broker that is not supervised,
    that one is absent too: no Redis was asked.
    """

    def __init__(self, read: Callable[[], Iterable[Gauge]], registry: CollectorRegistry = REGISTRY) -> None:
        self._read = read
        registry.register(self)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: registering it must not ask Redis."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of this moment."""
        families, up = [], 1
        try:
            families = [_family(gauge) for gauge in self._read()]
        except InfrastructureError as error:
            logger.debug("gauges not exported: %s", error)
            up = 0
        except CallerError as error:
            logger.debug("gauges not exported: %s", error)
            return
        except Exception:
            logger.exception("gauges not exported: reading them failed")
            up = 0
        yield GaugeMetricFamily("orchestrator_redis_up", "Whether Redis answered this scrape.", value=up)
        yield from families


def _family(gauge: Gauge) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"orchestrator_{gauge.name}", gauge.meaning, labels=[gauge.label] if gauge.label else [])
    for label, value in gauge.values.items():
        family.add_metric([label] if gauge.label else [], value)
    return family
