"""Mailboxes as kombu sees them."""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue


def mailbox(name: str, *, longest: int | None = None) -> Queue:
    """A queue that is reached by its name.

    With ``longest``, the oldest waiting message makes room for a new one.
    """
    arguments = {"x-max-length": longest} if longest else None
    return Queue(name, Exchange(""), routing_key=name, queue_arguments=arguments)


def why_temporary(queue: Any) -> str:
    """The reason why messages of this queue can vanish without an outcome, and so are in no ledger; empty if none."""
    arguments = getattr(queue, "queue_arguments", None) or {}
    if getattr(queue, "expires", None) is not None or "x-expires" in arguments:
        return "expires (x-expires)"
    return "is deleted with its last consumer (auto_delete)" if getattr(queue, "auto_delete", False) else ""
