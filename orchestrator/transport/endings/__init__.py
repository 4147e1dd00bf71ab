"""Messages that ended outside of an execution, kept until Celery's backend, errbacks and chords know of it."""
