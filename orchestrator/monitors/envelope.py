"""A DOWN as a message in an agent's mailbox: a template that the Lua scripts fill in."""

from __future__ import annotations

import json
from functools import cache

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.transport.message_envelope import envelope

#: A DOWN's message name, and the last part of its Celery task's.
DOWN = "Down"


def supervision_json(supervision: Supervision) -> str:
    """The supervision of an agent's DOWNs."""
    return json.dumps(supervision.to_wire())


@cache
def template() -> str:
    """A Celery message with the marks ``@ID@``, ``@TASK@``, ``@QUEUE@``, ``@SUPERVISION@``, ``@BODY@``."""
    text = envelope(
        task="@TASK@",
        queue="@QUEUE@",
        id="@ID@",
        supervision="@SUPERVISION@",
        arguments="(Down,)",
        origin="monitors",
        body="@BODY@",
    )
    # These two are put in as JSON, not into a string.
    return text.replace('"@BODY@"', "@BODY@").replace('"@SUPERVISION@"', "@SUPERVISION@")
