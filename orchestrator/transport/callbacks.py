"""The callbacks by which a pool reports how a message ended. Pools pass over what those raise, or only log it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

_REPORTS = ("callback", "error_callback", "timeout_callback")


class Reporting(Protocol):
    """A request, as its callbacks see it."""

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """What Celery's event loop is to see."""

    def settling_failed(self, error: Exception) -> None:
        """End the message all the same, and say why."""


def reporting(request: Reporting, callback: Callable[..., Any]) -> Callable[..., Any]:
    """The callback; what it raises ends the message."""
    return partial(_report, request, callback)


def _report(request: Reporting, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return callback(*args, **kwargs)
    except Exception as error:
        request.settling_failed(error)
        if isinstance(error, request.connection_errors):
            raise
        return None


class ReportingPool:
    """A pool as Celery's own request uses it, for one message."""

    def __init__(self, pool: Any, request: Reporting) -> None:
        self._pool = pool
        self._request = request

    def apply_async(self, target: Callable[..., Any], **options: Any) -> Any:
        """As the pool's."""
        for name in _REPORTS:
            if options.get(name) is not None:
                options[name] = reporting(self._request, options[name])
        return self._pool.apply_async(target, **options)
