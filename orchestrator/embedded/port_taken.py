"""What can go wrong with an embedded Redis server."""

from orchestrator.core.errors import EmbeddedServerError

__all__ = ["EmbeddedServerError", "PortTakenError"]


class PortTakenError(EmbeddedServerError):
    """The server could not listen on its port; most likely something else does."""
