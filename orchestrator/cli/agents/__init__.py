"""``celery -A APP agents``."""
