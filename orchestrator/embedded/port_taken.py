"""Errors of an embedded Redis server."""

import signal

from orchestrator.core.errors import EmbeddedServerError

__all__ = ["EmbeddedServerError", "PortTakenError", "ServerEndedError"]

#: Signals that a server does not send itself.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class PortTakenError(EmbeddedServerError):
    """The server could not listen on its port; most likely another process does."""


class ServerEndedError(EmbeddedServerError):
    """The server has ended, and nobody has asked it to."""

    def __init__(self, when: str, exit_code: int, last_words: str) -> None:
        how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        # The log does not show why it was killed from outside.
        words = "" if -exit_code in _FROM_OUTSIDE or not last_words else f": {last_words}"
        super().__init__(f"the embedded Redis server ended {when} ({how}){words}")
        #: The negative of a signal that has ended it.
        self.exit_code = exit_code
