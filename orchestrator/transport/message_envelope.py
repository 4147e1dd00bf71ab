"""Messages that scripts write: Celery's envelope as text, with marks in it that a script fills in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.core.deliveries.supervision import HEADER


def envelope(
    *,
    task: str,
    queue: str,
    id: str,
    supervision: Any,
    arguments: str,
    origin: str,
    body: str,
    root_id: str | None = None,
    parent_id: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> str:
    """A Celery message (protocol 2) as JSON. Its body is text, not base64: kombu reads both, and Lua has no base64."""
    return json.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": task,
                "id": id,
                "root_id": root_id or id,
                "parent_id": parent_id,
                "group": None,
                "retries": 0,
                "timelimit": [None, None],
                "eta": None,
                "expires": None,
                "ignore_result": True,
                "argsrepr": arguments,
                "kwargsrepr": "{}",
                "origin": origin,
                HEADER: supervision,
                **(more or {}),
            },
            "properties": {
                "correlation_id": id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "delivery_tag": id,
            },
        }
    )
