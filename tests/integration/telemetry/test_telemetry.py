"""One trace from the send to its attempts and the wait for them; metrics and Celery events of a real worker."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import Dead, Handled
from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.ports import free_port
from orchestrator.telemetry import Event, attach, detach, events, tracing
from orchestrator.transport.redis import commands
from tests.apps import traced_app
from tests.support.cluster import Cluster
from tests.support.envelope import envelope
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


class TracedCluster(Cluster):
    """A worker that answers Prometheus on ``metrics_port`` and sends Celery's events."""

    def __init__(self, url: str, worker: WorkerProcess, metrics_port: int) -> None:
        super().__init__(url, worker, traced_app.make(url))
        self.metrics_port = metrics_port


@pytest.fixture(scope="module")
def cluster() -> Iterator[TracedCluster]:
    port = free_port()
    environment = {
        "ORCHESTRATOR_TELEMETRY": '["logging", "prometheus", "opentelemetry"]',
        "ORCHESTRATOR_METRICS_PORT": str(port),
    }
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.traced_app", server.url, queues="guide", environment=environment, arguments=("-E",)
        ) as worker,
    ):
        cluster = TracedCluster(server.url, worker, port)
        yield cluster
        cluster.close()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.switch_on(provider.get_tracer("test"))
    yield exporter
    tracing.switch_off()


def trace_of(spans: InMemorySpanExporter, name: str) -> str:
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    assert found.context is not None
    return f"{found.context.trace_id:x}"


@pytest.mark.parametrize("failures", [0, 2])
def test_the_handler_on_the_worker_is_in_the_senders_trace_whatever_the_attempt(
    cluster: TracedCluster, spans: InMemorySpanExporter, failures: int
) -> None:
    delivery = cluster.orchestrator.send("guide", traced_app.Where(failures=failures))
    outcome = delivery.wait(timeout_s=10)
    assert isinstance(outcome, Handled)
    assert outcome.attempts == failures + 1
    assert outcome.result[0] == trace_of(spans, "send guide.Where")


@pytest.mark.parametrize("eager", [False, True])
def test_without_a_span_of_the_users_the_wait_is_in_the_same_trace(
    cluster: TracedCluster, spans: InMemorySpanExporter, eager: bool
) -> None:
    orchestrator = traced_app.make(eager=True) if eager else cluster.orchestrator
    outcome = orchestrator.send("guide", traced_app.Where()).wait(timeout_s=10)
    assert isinstance(outcome, Handled)
    assert {outcome.result[0], *(trace_of(spans, name) for name in ("send guide.Where", "wait guide.Where"))} == {
        outcome.result[0]
    }
    orchestrator.send("guide", traced_app.Where())
    sends = [span.context for span in spans.get_finished_spans() if span.name == "send guide.Where"]
    assert len({context.trace_id for context in sends if context is not None}) == 2, "each send has a trace of its own"


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("how", ["send_many", "broadcast"])
def test_the_waits_for_many_are_in_the_trace_in_which_all_were_sent(
    cluster: TracedCluster, spans: InMemorySpanExporter, how: str, eager: bool
) -> None:
    orchestrator = traced_app.make(eager=True) if eager else cluster.orchestrator
    if how == "send_many":
        deliveries = list(orchestrator.send_many("guide", [traced_app.Where(), traced_app.Where()]))
    else:
        deliveries = list(orchestrator.broadcast(["guide"], traced_app.Where()).deliveries.values())
    outcomes = [delivery.wait(timeout_s=10) for delivery in deliveries]
    traces = {outcome.result[0] for outcome in outcomes if isinstance(outcome, Handled)}
    waits = {
        f"{span.context.trace_id:x}"
        for span in spans.get_finished_spans()
        if span.name == "wait guide.Where" and span.context is not None
    }
    assert len(traces) == 1
    assert waits == traces


def test_a_call_is_one_trace(cluster: TracedCluster, spans: InMemorySpanExporter) -> None:
    here, _ = cluster.orchestrator.call("guide", traced_app.Where(), timeout_s=10)
    assert {here, trace_of(spans, "send guide.Where"), trace_of(spans, "wait guide.Where")} == {here}


def test_within_a_span_of_the_users_the_wait_is_in_the_same_trace(
    cluster: TracedCluster, spans: InMemorySpanExporter
) -> None:
    with tracing.span("checkout", "CLIENT"):
        cluster.orchestrator.send("guide", traced_app.Where()).wait(timeout_s=10)
    assert len({trace_of(spans, name) for name in ("checkout", "send guide.Where", "wait guide.Where")}) == 1


def test_the_handler_is_in_the_senders_trace_in_eager_mode_too(spans: InMemorySpanExporter) -> None:
    orchestrator = traced_app.make(eager=True)
    outcome = orchestrator.send("guide", traced_app.Where(failures=1)).wait(timeout_s=1)
    assert isinstance(outcome, Handled)
    assert outcome.result[0] == trace_of(spans, "send guide.Where")
    attempts = [span for span in spans.get_finished_spans() if span.name == "handle guide.Where"]
    assert [[event.name for event in span.events] for span in attempts] == [["exception"], []]


@pytest.mark.parametrize("eager", [False, True])
def test_what_an_agent_sends_to_itself_is_of_the_same_trace_and_as_urgent_as_its_policy_says(
    cluster: TracedCluster, spans: InMemorySpanExporter, eager: bool
) -> None:
    orchestrator = traced_app.make(eager=True) if eager else cluster.orchestrator
    log = orchestrator.dead_letters
    outcome = orchestrator.send("guide", traced_app.Further()).wait(timeout_s=10)
    assert isinstance(outcome, Handled)
    letter = eventually(lambda: log.query(message="Further").page(1).letters)[0]
    log.purge(all=True)
    envelope = json.loads(letter.raw)
    assert int(envelope["headers"]["traceparent"].split("-")[1], 16) == int(outcome.result, 16)
    assert letter.attempts == 1
    assert eager or envelope["properties"]["priority"] == 3


def test_a_worker_answers_prometheus(cluster: TracedCluster) -> None:
    def counted() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.metrics_port}/metrics", timeout=5) as response:
            text: str = response.read().decode()
        return text if 'orchestrator_delivery_handled_total{agent="guide",message="Where"}' in text else ""

    cluster.orchestrator.send("guide", traced_app.Where()).wait(timeout_s=10)
    assert eventually(counted, timeout_s=5, describe=cluster.worker.log)


def test_a_worker_logs_events_with_their_fields(cluster: TracedCluster) -> None:
    delivery = cluster.orchestrator.send("guide", traced_app.Where())
    delivery.wait(timeout_s=10)
    eventually(lambda: f"id={delivery.id}" in cluster.worker.log(), timeout_s=5, describe=cluster.worker.log)


def test_what_nobody_may_ask_for_is_told_of_too(cluster: TracedCluster) -> None:
    delivery = cluster.orchestrator.send("guide", traced_app.Where(), track=False)
    eventually(
        lambda: any(
            f"id={delivery.id}" in line and "delivery.handled" in line for line in cluster.worker.log().splitlines()
        ),
        timeout_s=10,
        describe=cluster.worker.log,
    )


@pytest.mark.parametrize(
    "entry",
    [
        b"not json",
        b"{}",
        json.dumps({**envelope("guide.Where"), "headers": []}).encode(),
        json.dumps({**envelope("guide.Where"), "content-type": "application/x-yaml"}).encode(),
        json.dumps(envelope("guide.Where", properties={"body_encoding": "rot13"})).encode(),
        json.dumps(envelope("guide.Where", headers={"eta": "garbage"})).encode(),
        json.dumps(envelope("nobody.Knows")).encode(),
    ],
    ids=lambda entry: repr(entry[:24]),
)
def test_garbage_thrown_at_a_worker_is_told_as_one_dead_letter(cluster: TracedCluster, entry: bytes) -> None:
    store = cluster.orchestrator.runtime.store
    before = cluster.worker.log().count("dead_letter.added ")
    stream = store.keys.stream("guide", store.levels[1])
    store.run(*commands.publish(stream, store.keys.ledger("guide"), [entry]))
    after = cluster.orchestrator.send("guide", traced_app.Where())
    after.wait(timeout_s=10)
    eventually(lambda: f"id={after.id}" in cluster.worker.log(), timeout_s=5, describe=cluster.worker.log)
    told = [line for line in cluster.worker.log().splitlines() if "dead_letter.added " in line][before:]
    assert len(told) == 1, told
    assert "agent=guide " in told[0]
    assert "reason=malformed " in told[0] or "reason=unknown task " in told[0]


def test_poison_that_a_sweep_or_a_worker_dead_letters_is_emitted_like_any_dead_letter(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    orchestrator = traced_app.make(redis_url)
    delivery = orchestrator.send("guide", traced_app.Where())
    store = orchestrator.runtime.store
    client: Any = store.client
    stream = store.keys.stream("guide", 0)
    ((entry, _),) = client.xrange(stream)
    client.xgroup_create(stream, store.group, id="0")
    client.xreadgroup(store.group, "w#1", {stream: ">"})
    heard: list[Event] = []
    attach(heard.append, events.DEAD_LETTERED)
    try:
        last = commands.requeue_held(
            store.keys, "guide", stream, [entry], max_deaths=1, ttl_ms=60_000, by="w#1", reason="killed", ran="1"
        )
        assert store.run(*last) == [b"poison"]
    finally:
        detach(heard.append)
    assert [(event.metadata["id"], event.metadata["reason"], event.metadata["agent"]) for event in heard] == [
        (delivery.id, "poison", "guide")
    ]
    why = "its worker died 1 times while running it"
    (letter,) = orchestrator.dead_letters.list(2)
    assert f"dead letter {letter.id} in guide: poison: {why}; message {delivery.id}, task guide.Where" in caplog.text
    outcome = orchestrator.delivery(delivery.id).outcome()
    assert isinstance(outcome, Dead)
    assert (outcome.error, letter.error_message) == (why, why)


def test_whoever_watches_a_celery_cluster_hears_of_dead_letters(cluster: TracedCluster) -> None:
    heard: list[dict[str, Any]] = []
    receivers: list[Any] = []
    ready, enough = threading.Event(), threading.Event()
    app: Celery = cluster.orchestrator.app

    def hear(event: dict[str, Any]) -> None:
        heard.append(event)
        ready.set()
        if event["type"] == "orchestrator-dead_letter.added":
            enough.set()
            receivers[0].should_stop = True

    def watch() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": hear})
            receivers.append(receiver)
            # Flower does the same; the workers' answers to its wake-up say that it is listening.
            with contextlib.suppress(TimeoutError):
                receiver.capture(limit=None, timeout=10, wakeup=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert ready.wait(10)
    delivery = cluster.orchestrator.send("guide", traced_app.Where(failures=9))
    assert enough.wait(10), heard
    watcher.join(5)
    (letter,) = [event for event in heard if event["type"] == "orchestrator-dead_letter.added"]
    assert (letter["id"], letter["agent"], letter["reason"]) == (delivery.id, "guide", "retries exhausted")
    assert "task-retried" in {event["type"] for event in heard}
