"""What can go wrong with an embedded Redis server."""


class EmbeddedServerError(Exception):
    """The embedded Redis server could not be found, started or reached."""


class PortTakenError(EmbeddedServerError):
    """The server could not listen on its port; most likely something else does."""
