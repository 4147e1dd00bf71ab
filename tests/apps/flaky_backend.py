"""Celery's Redis result backend, which refuses while ``test:backend`` in Redis says how."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend
from kombu.exceptions import EncodeError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.apps import ends_app

_ERRORS = {"away": RedisConnectionError, "refuses": RuntimeError, "exhausted": MemoryError, "encoding": EncodeError}


class FlakyBackend(RedisBackend):
    """Refuses whatever is stored or looked up."""

    def _refuse(self) -> None:
        with Redis.from_url(ends_app.URL) as client:
            how = client.get("test:backend")
        if isinstance(how, bytes):
            raise _ERRORS[how.decode()](f"the backend {how.decode()}")

    def _store_result(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse()
        return super()._store_result(*args, **kwargs)

    def _get_task_meta_for(self, task_id: str) -> Any:
        self._refuse()
        return super()._get_task_meta_for(task_id)

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse()
        return super().on_chord_part_return(*args, **kwargs)
