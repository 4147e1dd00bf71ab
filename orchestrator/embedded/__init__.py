"""A real Redis server inside a demo, a test run or a development machine. Not for production."""

from orchestrator.embedded.binary import find_server_binary
from orchestrator.embedded.port_taken import EmbeddedServerError, PortTakenError
from orchestrator.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer", "EmbeddedServerError", "PortTakenError", "find_server_binary"]
