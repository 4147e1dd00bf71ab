"""Messages that ended outside of an execution, until Celery's side of them has ended too."""
