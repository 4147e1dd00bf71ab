"""OpenTelemetry, where it is installed and switched on: one trace spans the send, each attempt, and the wait for it.

The context travels in the message's headers as W3C ``traceparent`` and ``tracestate``, where OpenTelemetry's own
Celery instrumentation looks for it too. Switched off, a span costs one comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.core.extras import missing_extra

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Kind = Literal["PRODUCER", "CONSUMER", "CLIENT"]

#: The headers that carry a context.
CARRIED: Final = ("traceparent", "tracestate")

_NOTHING: Final = nullcontext()

_tracer: Tracer | None = None


def switch_on(tracer: Tracer | None = None) -> None:
    """Make spans from now on, with OpenTelemetry's global provider unless ``tracer`` is given.

    Raises:
        InvalidSettings: OpenTelemetry is not installed; names the extra.
    """
    global _tracer
    try:
        from opentelemetry import trace
    except ModuleNotFoundError as error:
        raise missing_extra("telemetry has 'opentelemetry'", error, "opentelemetry") from None
    _tracer = tracer or trace.get_tracer("orchestrator")


def switch_off() -> None:
    """Make no more spans."""
    global _tracer
    _tracer = None


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def span(
    name: str, kind: Kind, carried: Mapping[str, Any] | None = None, **attributes: str | int
) -> AbstractContextManager[None]:
    """A span around what is done in it; an error that leaves it is recorded. ``carried`` names its parent."""
    return _NOTHING if _tracer is None else _span(_tracer, name, kind, carried, attributes)


def carry(headers: MutableMapping[str, Any]) -> None:
    """Write the current context into a message's headers."""
    if _tracer is not None:
        from opentelemetry.propagate import inject

        inject(headers)


def carried(request: object) -> dict[str, str]:
    """The context that a Celery request's message carried; in eager mode it is among its ``headers``."""
    found: dict[str, str] = {}
    if _tracer is None:
        return found
    headers = getattr(request, "headers", None)
    for name in CARRIED:
        value = getattr(request, name, None)
        if value is None and isinstance(headers, Mapping):
            value = headers.get(name)
        if isinstance(value, str):
            found[name] = value
    return found


@contextmanager
def _span(
    tracer: Tracer, name: str, kind: Kind, carried: Mapping[str, Any] | None, attributes: Mapping[str, str | int]
) -> Iterator[None]:
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    parent = extract(carried) if carried else None
    full = {"messaging.system": "orchestrator", **{f"orchestrator.{key}": value for key, value in attributes.items()}}
    with tracer.start_as_current_span(name, context=parent, kind=SpanKind[kind], attributes=full):
        yield
