"""What the handlers make of events."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.telemetry import Event, attach, detach, emit, events, tracing
from orchestrator.telemetry.celery_events import CeleryEventsHandler
from orchestrator.telemetry.logs import LOGGER, EventLog
from orchestrator.telemetry.prometheus import PrometheusHandler


def example(name: events.EventName) -> Event:
    """An event with every field of its contract."""
    return Event(name, dict.fromkeys(name.measurements, 0.25), {field: f"a-{field}" for field in name.metadata})


def test_a_handler_of_some_events_hears_no_others() -> None:
    heard: list[str] = []
    everything: list[str] = []

    def some(event: Event) -> None:
        heard.append(event.name)

    def every(event: Event) -> None:
        everything.append(event.name)

    attach(some, "x.one", "x.two")
    attach(every)
    try:
        for name in ("x.one", "x.three", "x.two"):
            emit(name)
    finally:
        detach(some)
        detach(every)
    emit("x.one")
    assert heard == ["x.one", "x.two"]
    assert everything == ["x.one", "x.three", "x.two"]


@pytest.mark.parametrize("name", events.contract())
def test_every_event_is_logged_with_all_its_fields(name: events.EventName, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        EventLog()(example(name))
    (record,) = caplog.records
    assert record.getMessage().startswith(name)
    assert all(f"{field}=" in record.getMessage() for field in (*name.measurements, *name.metadata))
    fields: Any = record
    assert (fields.event, set(fields.metadata)) == (name, set(name.metadata))


def test_what_concerns_an_operator_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        EventLog()(example(events.DEAD_LETTERED))
        EventLog()(example(events.HANDLED))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_secret_in_an_errors_text_is_masked_in_every_form_of_a_logged_event(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(["token"])
    log.hide(["pin"])
    with caplog.at_level(logging.INFO, LOGGER):
        log(Event(events.DROPPED, {}, {"id": "d1", "error": "ValueError: token=hunter2, pin: 4711"}))
    (record,) = caplog.records
    fields: Any = record
    assert "ValueError: token=" in record.getMessage()
    for secret in ("hunter2", "4711"):
        assert secret not in record.getMessage()
        assert secret not in str(fields.metadata)


def test_a_secret_in_an_errors_text_is_masked_for_watchers() -> None:
    sent: list[dict[str, Any]] = []
    handler = CeleryEventsHandler(lambda _, **fields: sent.append(fields), ["token"])
    told = {"agent": "billing", "message": "Charge", "id": "d1", "error": "token=hunter2", "attempts": 3}
    handler(Event(events.DEAD_LETTERED, {}, {**told, "reason": "poison"}))
    assert len(sent) == 2
    assert "hunter2" not in str(sent)


def exposed(*happened: Event) -> str:
    registry = CollectorRegistry()
    handler = PrometheusHandler(registry)
    for event in happened:
        handler(event)
    return generate_latest(registry).decode()


def test_every_event_is_counted() -> None:
    text = exposed(*(example(name) for name in events.contract()))
    for name in events.contract():
        assert f"orchestrator_{name.replace('.', '_')}_total" in text
    assert " nan" not in text.lower()


def test_events_are_told_apart_by_agent_and_reason_but_never_by_id() -> None:
    dead_lettered = {"agent": "billing", "message": "Charge", "reason": "poison", "error": "secret", "attempts": 3}
    text = exposed(*(Event(events.DEAD_LETTERED, {}, {**dead_lettered, "id": f"id-{n}"}) for n in range(3)))
    (line,) = [line for line in text.splitlines() if line.startswith("orchestrator_dead_letter_added_total{")]
    assert line == 'orchestrator_dead_letter_added_total{agent="billing",message="Charge",reason="poison"} 3.0'
    assert "secret" not in text


def test_seconds_are_observed_and_numbers_added_up() -> None:
    text = exposed(example(events.HANDLED), Event(events.PURGED, {"count": 7}), Event("not.in_the_contract"))
    assert "orchestrator_delivery_handled_runtime_seconds_sum" in text
    assert "orchestrator_dead_letter_purged_count_total 7.0" in text


def test_watchers_hear_of_poison_as_a_failed_task_because_celery_does_not_tell_them() -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    handler = CeleryEventsHandler(lambda type_, **fields: sent.append((type_, fields)))
    told = {"agent": "billing", "message": "Charge", "id": "d1", "error": "WorkerLost", "attempts": 3}
    handler(Event(events.DEAD_LETTERED, {}, {**told, "reason": "poison"}))
    handler(Event(events.DEAD_LETTERED, {}, {**told, "reason": "retries exhausted"}))
    assert [type_ for type_, _ in sent] == [
        "orchestrator-dead_letter.added",
        "task-failed",
        "orchestrator-dead_letter.added",
    ]
    assert sent[1][1]["uuid"] == "d1"


def test_a_process_forked_from_a_worker_does_not_write_to_its_parents_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    handler = CeleryEventsHandler(lambda type_, **_: sent.append(type_))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    handler(example(events.PURGED))
    assert sent == []


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.switch_on(provider.get_tracer("test"))
    yield exporter
    tracing.switch_off()


def test_the_context_travels_in_headers(spans: InMemorySpanExporter) -> None:
    headers: dict[str, Any] = {}
    with tracing.span("send billing.Charge", "PRODUCER", agent="billing"):
        tracing.carry(headers)
    with tracing.span("handle billing.Charge", "CONSUMER", tracing.carried(SimpleNamespace(**headers)), attempt=1):
        pass
    sent, handled = spans.get_finished_spans()
    assert sent.context is not None
    assert handled.parent is not None
    assert (handled.parent.span_id, handled.parent.trace_id) == (sent.context.span_id, sent.context.trace_id)
    assert handled.attributes is not None
    assert handled.attributes["orchestrator.attempt"] == 1


def test_an_error_that_leaves_a_span_is_recorded_and_goes_on(spans: InMemorySpanExporter) -> None:
    with pytest.raises(LookupError), tracing.span("handle x", "CONSUMER"):
        raise LookupError("gone")
    (failed,) = spans.get_finished_spans()
    assert [event.name for event in failed.events] == ["exception"]


def test_switched_off_nothing_is_carried_and_nothing_breaks() -> None:
    headers: dict[str, Any] = {}
    with tracing.span("send x", "PRODUCER"):
        tracing.carry(headers)
    assert headers == {}
    assert tracing.carried(SimpleNamespace(traceparent="00-1-2-01")) == {}
