"""The supervision that a message carries, read once for each request."""

from __future__ import annotations

from typing import Any

from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.transport.celery.own_fields import KEPT, own_field


def supervision_of(request: Any) -> Supervision | None:
    """The supervision of a Celery request's message; ``None`` for a plain Celery send.

    Raises:
        InvalidPolicy: its header is not what a supervised send writes.
    """
    wire = own_field(request, HEADER)
    if wire is None:
        return None
    # Read again for the handler's context.
    cached = vars(request).get(KEPT)
    if cached is not None and cached[0] is wire:
        known: Supervision = cached[1]
        return known
    known = Supervision.from_wire(wire)
    vars(request)[KEPT] = wire, known
    return known
