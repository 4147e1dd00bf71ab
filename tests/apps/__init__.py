"""Celery apps for workers in processes of their own. None of those outlives the tests that started it."""

from chaos.owner import end_with_owner

end_with_owner()
