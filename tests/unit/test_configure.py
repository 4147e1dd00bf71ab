"""What an Orchestrator makes of a Celery app's broker URL."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator.app import Orchestrator
from orchestrator.core.errors import InvalidSettings
from orchestrator.transport.transport import TRANSPORT


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost/0",
        "rediss://localhost/0",
        "redis:///run/redis.sock",
        "sentinel://a;sentinel://b",
        ["redis://a", "redis://b"],
    ],
)
def test_a_redis_url_gets_the_transport(url: str | list[str]) -> None:
    app = Celery("shop", broker=url, set_as_current=False)
    Orchestrator(app)
    assert app.conf.broker_transport == TRANSPORT


def test_a_url_for_which_kombu_ignores_the_transport_is_refused() -> None:
    app = Celery("shop", broker="redis+socket:///run/redis.sock", set_as_current=False)
    with pytest.raises(InvalidSettings, match=r"allowed: redis:///run/redis\.sock"):
        Orchestrator(app)
