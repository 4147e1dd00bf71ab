"""Errors of an embedded Redis server."""

from orchestrator.core.errors import EmbeddedServerError

__all__ = ["EmbeddedServerError", "PortTakenError"]


class PortTakenError(EmbeddedServerError):
    """The server could not listen on its port; most likely another process does."""
