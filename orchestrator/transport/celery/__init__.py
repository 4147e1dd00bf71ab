"""What the transport changes in a Celery worker."""
