"""``celery -A APP workflows``."""
