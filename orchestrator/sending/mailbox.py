"""Mailboxes as kombu sees them."""

from __future__ import annotations

from kombu import Exchange, Queue


def mailbox(name: str, *, longest: int | None = None) -> Queue:
    """A queue that is reached by its name.

    With ``longest``, the oldest waiting message makes room for a new one.
    """
    arguments = {"x-max-length": longest} if longest else None
    return Queue(name, Exchange(""), routing_key=name, queue_arguments=arguments)
