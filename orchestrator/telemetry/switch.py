"""Switching handlers on by name, once per process however many apps ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal

from orchestrator.telemetry import tracing
from orchestrator.telemetry.emit import attach

HandlerName = Literal["logging", "prometheus", "opentelemetry"]


def switch_on(names: Iterable[HandlerName]) -> None:
    """Have these handlers hear every event from now on.

    Raises:
        InvalidSettings: a handler needs a package that is not installed.
    """
    for name in names:
        _switch_on(name)


@cache
def _switch_on(name: HandlerName) -> None:
    # Each is imported where it is wanted: prometheus_client alone takes a while.
    match name:
        case "logging":
            from orchestrator.telemetry.logs import log_event

            attach(log_event)
        case "prometheus":
            from orchestrator.telemetry.prometheus import PrometheusHandler

            attach(PrometheusHandler())
        case "opentelemetry":
            tracing.switch_on()
