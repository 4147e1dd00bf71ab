"""Runnable agents and the Celery app that hosts them: ``celery -A workers worker``."""

from workers.app import app, orchestrator

__all__ = ["app", "orchestrator"]
