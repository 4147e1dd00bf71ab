"""The names that this library adds to a message's headers and to a task's request, and how users do not see them.

Celery shows a task, as ``self.request.headers``, every header that is not an attribute of its ``Context``; and those
go on with ``self.retry`` and with code that passes headers on. So these names are attributes of ``Context``.
"""

from __future__ import annotations

from typing import Any, Final

from celery.app.task import Context

from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.transport.mailbox_entry import LINEAGE, SENT

#: The fencing token of the attempt, in a request.
FENCE: Final = "orc_fence"

#: The incarnation that runs the attempt, in a request.
INCARNATION: Final = "orc_incarnation"

#: The timeout of the attempt, in seconds, in a request whose own timeout an operator has overridden.
OVERRIDE: Final = "orc_timeout_s"

#: Where a request keeps its supervision once it has been read.
KEPT: Final = "orc_supervision"

#: Where it keeps the error that the handler has raised on the fast path (see fast_path_request.py).
HANDLER_ERROR: Final = "orc_failed"

OWN_FIELDS: Final = (HEADER, LINEAGE, SENT, FENCE, INCARNATION, OVERRIDE, KEPT, HANDLER_ERROR)


def hide_own_fields() -> None:
    """Have Celery's ``Context`` know the names."""
    for name in OWN_FIELDS:
        setattr(Context, name, None)


class EagerHeaders(dict[str, Any]):
    """The headers of an eager run: the user's as items, this library's in ``own``."""

    def __init__(self, headers: dict[str, Any] | None) -> None:
        given = headers or {}
        super().__init__({name: value for name, value in given.items() if name not in OWN_FIELDS})
        self.own = {name: given[name] for name in OWN_FIELDS if name in given}


def override_of(request: Any) -> float | None:
    """The overridden timeout of a request's attempt, in seconds; ``None`` if it has none."""
    fields = vars(request)
    timeout_s = fields.get(OVERRIDE)
    if timeout_s is None and fields.get("is_eager"):
        timeout_s = own_field(request, OVERRIDE)
    return None if timeout_s is None else float(timeout_s)


def own_field(request: Any, name: str) -> Any:
    """One of these fields of a request, ``None`` if it has none."""
    value = getattr(request, name, None)
    if value is None:
        headers = getattr(request, "headers", None)
        value = headers.own.get(name) if isinstance(headers, EagerHeaders) else None
    return value
