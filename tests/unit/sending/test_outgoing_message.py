"""What is about to be published."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.policies.policy import Retry
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


def test_a_message_with_another_body_keeps_every_other_field() -> None:
    supervision = Supervision(Retry(), agent="a", message="m")
    required: dict[str, Any] = {"id": "1", "task": "t", "args": ["x"], "supervision": supervision}
    # Of each field a value of its own, whatever its type: one that is left out would have its default.
    marked: dict[str, Any] = {f.name: required.get(f.name, object()) for f in fields(OutgoingMessage)}
    message = OutgoingMessage(**marked)
    assert message.with_body("2", ["y"]) == replace(message, id="2", args=["y"])
