"""A real Redis server inside a demo, a test run or a development machine. Not for production."""

from orchestrator.embedded.binary import find_server_binary
from orchestrator.embedded.errors import EmbeddedServerError, PortTakenError
from orchestrator.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer", "EmbeddedServerError", "PortTakenError", "find_server_binary"]
