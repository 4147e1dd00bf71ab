"""``orchestrator tree``, and the socket that it asks."""
