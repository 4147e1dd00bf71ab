"""Celery's boot steps of a worker, and what they start."""
