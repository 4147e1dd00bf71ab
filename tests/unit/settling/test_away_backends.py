"""Which errors say that a result backend cannot be reached, and which that a message is wrong."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.exceptions import BackendStoreError
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.transport.endings.delivery_thread import _is_away


@pytest.mark.parametrize("backend", ["redis://127.0.0.1:1/0", "cache+memory://"])
@pytest.mark.parametrize(
    ("error", "away"),
    [
        (RedisConnectionError("refused"), True),
        (OSError("broken pipe"), True),
        (OperationalError("no broker for an errback"), True),
        (BackendStoreError("failed to store"), True),
        # A signature whose "subtask_type" is 9.
        (KeyError(9), False),
        (TypeError("no signature"), False),
    ],
    ids=repr,
)
def test_a_wrong_message_is_not_taken_for_a_backend_that_is_away(backend: str, error: Exception, away: bool) -> None:
    app = Celery("away", backend=backend, set_as_current=False)
    assert _is_away(app, error) is away
