"""The kombu transport; the class that Celery's ``broker_transport`` names."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

from kombu.transport import redis as kombu_redis
from kombu.utils.url import as_url

from orchestrator.transport.channel import Channel
from orchestrator.transport.poller import Poller

SENTINEL_PORT = 26379

#: What ``broker_transport`` says to have it.
TRANSPORT = "orchestrator.transport:Transport"

#: Celery's default for ``Task.Request``, and what it is where this transport is in use.
CELERY_REQUEST = "celery.worker.request:Request"
TRACKED_REQUEST = "orchestrator.transport.request:TrackedRequest"


def _track_requests() -> None:
    """Have Celery's workers tell us when a message starts executing.

    ``Task.Request`` is Celery's own setting for this; it is changed only where nobody has chosen another, and
    only in a process that has Celery (the transport serves plain kombu as well).
    """
    task_module = sys.modules.get("celery.app.task")
    if task_module is not None and task_module.Task.Request == CELERY_REQUEST:
        task_module.Task.Request = TRACKED_REQUEST


class Transport(kombu_redis.Transport):
    """Redis Streams instead of lists; everything else as kombu's Redis transport has it."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        _track_requests()
        # The class says no, so that kombu parses the URL; the instance says yes, so that kombu asks as_uri().
        self.can_parse_url = True

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The broker URL as its user wrote it: ``redis://``, not this class' name."""
        info = self.client.info()
        scheme = "sentinel" if self.default_port == SENTINEL_PORT else "rediss" if self.client.ssl else "redis"
        url: str = as_url(
            scheme,
            info["hostname"],
            info["port"],
            info["userid"],
            info["password"],
            quote(str(info["virtual_host"] or ""), safe=""),
            sanitize=bool(info["password"]) and not include_password,
            mask=mask,
        )
        return url
