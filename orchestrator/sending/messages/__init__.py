"""Builds outgoing messages, for agents and for plain Celery tasks."""
