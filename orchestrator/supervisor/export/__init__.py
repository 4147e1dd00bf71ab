"""``orchestrator supervise export``."""
