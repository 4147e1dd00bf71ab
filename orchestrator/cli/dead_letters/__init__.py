"""``celery -A APP dead-letters``."""
