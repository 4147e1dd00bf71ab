"""``celery -A APP schedules``."""
