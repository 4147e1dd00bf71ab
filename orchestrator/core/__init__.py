"""Values and rules that know no broker, no Celery and no clock of their own."""
