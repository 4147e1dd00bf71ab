"""Switching handlers on by name, once per process however many apps ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Literal

from orchestrator.core.extras import missing_extra
from orchestrator.telemetry import tracing
from orchestrator.telemetry.emit import attach

if TYPE_CHECKING:
    from orchestrator.telemetry.logs import EventLog

HandlerName = Literal["logging", "prometheus", "opentelemetry"]


def switch_on(names: Iterable[HandlerName], hidden: Iterable[str] = ()) -> None:
    """Have these handlers hear every event from now on. Where they show text, the ``hidden`` fields are masked.

    Raises:
        InvalidSettings: a handler needs a package that is not installed.
    """
    # Each is imported where it is wanted: prometheus_client alone takes a while.
    for name in names:
        match name:
            case "logging":
                _event_log().hide(hidden)
            case "prometheus":
                _count()
            case "opentelemetry":
                _trace()


@cache
def _event_log() -> EventLog:
    from orchestrator.telemetry.logs import EventLog

    log = EventLog()
    attach(log)
    return log


@cache
def _count() -> None:
    try:
        from orchestrator.telemetry.prometheus import PrometheusHandler
    except ModuleNotFoundError as error:
        raise missing_extra("telemetry has 'prometheus'", error, "prometheus") from None

    attach(PrometheusHandler())


@cache
def _trace() -> None:
    tracing.switch_on()
