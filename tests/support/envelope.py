"""A message as Celery's protocol 2 has it, to be spoilt."""

from __future__ import annotations

import base64
import json
from typing import Any


def envelope(
    task: Any = "worker.Add",
    args: Any = ({"a": 1, "b": 2},),
    kwargs: Any = None,
    *,
    body: Any = None,
    headers: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    **top: Any,
) -> dict[str, Any]:
    """A message as Celery's protocol 2 has it, to be spoilt."""
    if body is None:
        body = json.dumps([args, {} if kwargs is None else kwargs, {}]).encode()
    if isinstance(body, bytes):
        body = base64.b64encode(body).decode()
    all_headers = {"lang": "py", "task": task, "id": "spoilt", "retries": 0, **(headers or {})}
    for name in without:
        all_headers.pop(name)
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": all_headers,
        "properties": {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": "t"},
        **top,
    }
