"""Limits how long a worker retries to store a task's result while the result backend is not available."""

from __future__ import annotations

from typing import Final

from celery import Celery

#: Celery's settings for about 30 s of retries; its default is none.
_SETTINGS: Final = {
    "result_backend_always_retry": True,
    "result_backend_max_retries": 60,
    "result_backend_max_sleep_between_retries_ms": 1000,
}


def keep_storing(app: Celery) -> None:
    """Have this worker retry to store results for about 30 s, unless the app's own settings say otherwise."""
    if app.conf.result_backend_always_retry:
        return
    # The last of the maps are Celery's defaults.
    given = {name for known in app.conf.maps[:-1] for name in _SETTINGS if name in known}
    if "result_backend_always_retry" not in given:
        app.conf.update({name: value for name, value in _SETTINGS.items() if name not in given})
