"""The transport's changes in a Celery worker."""
