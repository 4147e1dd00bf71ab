"""A DOWN as a message in an agent's mailbox: a template that the Lua scripts fill in."""

from __future__ import annotations

import json
from functools import cache

from orchestrator.core.supervision import HEADER, Supervision

#: A DOWN's message name, and the last part of its Celery task's.
DOWN = "Down"


def supervision_json(supervision: Supervision) -> str:
    """How an agent's DOWNs are supervised."""
    return json.dumps(supervision.to_wire())


@cache
def template() -> str:
    """A Celery message (protocol 2) with the marks ``@ID@``, ``@TASK@``, ``@QUEUE@``, ``@SUPERVISION@``, ``@BODY@``.

    The body is plain JSON text rather than base64: kombu reads both, and Lua has no base64.
    """
    envelope = {
        "body": "@BODY@",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "@TASK@",
            "id": "@ID@",
            "root_id": "@ID@",
            "parent_id": None,
            "group": None,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "ignore_result": True,
            "argsrepr": "(Down,)",
            "kwargsrepr": "{}",
            "origin": "monitors",
            HEADER: "@SUPERVISION@",
        },
        "properties": {
            "correlation_id": "@ID@",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "@QUEUE@"},
            "priority": 0,
            "delivery_tag": "@ID@",
        },
    }
    text = json.dumps(envelope)
    # These two are put in as JSON, not into a string.
    return text.replace('"@BODY@"', "@BODY@").replace('"@SUPERVISION@"', "@SUPERVISION@")
