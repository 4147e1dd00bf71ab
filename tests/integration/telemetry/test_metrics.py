"""Prometheus: gauges of the state in Redis, and a port for each worker of a host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request

import pytest
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.gauge import Gauge
from orchestrator.embedded.ports import free_port
from orchestrator.registry.gauges import read_gauges
from orchestrator.telemetry.gauge_collector import GaugeCollector
from tests.apps import shop
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def test_each_worker_of_a_host_has_a_port_of_its_own_and_all_are_listed(redis_url: str) -> None:
    orchestrator = shop.make(redis_url)
    port = free_port()
    environment = {"ORCHESTRATOR_METRICS_PORT": str(port), "ORCHESTRATOR_TELEMETRY": '["prometheus"]'}
    with (
        WorkerProcess("tests.apps.shop", redis_url, name="m1", queues="billing", environment=environment) as first,
        WorkerProcess("tests.apps.shop", redis_url, name="m2", queues="billing", environment=environment) as second,
    ):
        for number in range(3):
            orchestrator.send("billing", shop.Charge(order_id=str(number), cents=5), countdown_s=1000)
        orchestrator.app.send_task("x", queue="nobodys")

        def listed() -> dict[str, int]:
            command = [
                sys.executable,
                "-c",
                "from orchestrator.command import main; raise SystemExit(main())",
                "metrics",
            ]
            out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
            found = {group["labels"]["node"].split("@")[0]: group["targets"][0] for group in json.loads(out)}
            return {node: int(target.rpartition(":")[2]) for node, target in found.items() if node in ("m1", "m2")}

        ports = eventually(lambda: len(found := listed()) == 2 and found, 20, lambda: first.log() + second.log())
        assert ports
        assert len(set(ports.values())) == 2
        assert min(ports.values()) >= port
        for worker_port in ports.values():
            text = scraped(worker_port)
            assert 'orchestrator_mailbox_waiting{queue="nobodys"} 1.0' in text
            assert 'orchestrator_mailbox_delayed{queue="billing"} 3.0' in text
            assert 'orchestrator_mailbox_workers{queue="billing"} 2.0' in text
            assert 'orchestrator_mailbox_workers{queue="nobodys"} 0.0' in text
            assert "orchestrator_workers 2.0" in text
            assert "orchestrator_dead_letters 0.0" in text
            assert "orchestrator_redis_up 1.0" in text
            assert re.search(r'orchestrator_mailbox_oldest_waiting_seconds\{queue="nobodys"\} [\d.e-]+', text)
        eventually(lambda: "orchestrator_sweep_age_seconds" in scraped(ports["m1"]), 20, first.log)


def test_while_redis_is_away_the_gauges_are_absent_and_a_scrape_says_so() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    away = True

    def read() -> list[Gauge]:
        if away:
            raise BrokerUnavailable("redis://x", "gone")
        return [Gauge("depth", "Depth.", "queue", {"a": 1.0}), Gauge("workers", "Workers.", "", {"": 2})]

    GaugeCollector(read, registry)
    assert "orchestrator_redis_up 0.0" in generate_latest(registry).decode()
    assert "orchestrator_depth" not in generate_latest(registry).decode()
    away = False
    text = generate_latest(registry).decode()
    assert 'orchestrator_depth{queue="a"} 1.0' in text
    assert "orchestrator_workers 2.0" in text


@pytest.mark.parametrize("broker", ["memory://", "amqp://127.0.0.1:1//"])
def test_without_redis_a_scrape_has_all_metrics_but_the_gauges(broker: str) -> None:
    """Regression: the scrape failed as a whole."""
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    registry = CollectorRegistry()
    Counter("tasks", "Tasks.", registry=registry).inc()
    orchestrator = Orchestrator(Celery("elsewhere", broker=broker, set_as_current=False))
    GaugeCollector(lambda: read_gauges(orchestrator.runtime.store, orchestrator.registry), registry)
    text = generate_latest(registry).decode()
    assert "tasks_total 1.0" in text
    assert "orchestrator_redis_up" not in text


def test_an_unforeseen_error_costs_a_scrape_its_gauges_only(caplog: pytest.LogCaptureFixture) -> None:
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    def read() -> list[Gauge]:
        raise ValueError("no password today")

    registry = CollectorRegistry()
    Counter("tasks", "Tasks.", registry=registry).inc()
    GaugeCollector(read, registry)
    text = generate_latest(registry).decode()
    assert "tasks_total 1.0" in text
    assert "orchestrator_redis_up 0.0" in text
    assert "gauges not exported: reading them failed" in caplog.text


def test_no_free_port_is_an_error_that_names_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.telemetry import prometheus

    monkeypatch.setattr(prometheus, "PORTS", 2)
    first = prometheus.serve(free_port())
    taken = prometheus.serve(first)
    assert taken == first + 1
    with pytest.raises(OSError, match=f"no port from {first} to {first + 1} is free"):
        prometheus.serve(first)
