"""A kombu transport that keeps each queue in Redis streams, so that no message is ever only in a worker's memory.

Use it alone with one Celery setting, ``broker_transport = "orchestrator.transport:Transport"``, and a
``redis://`` broker URL.
"""

from orchestrator.transport.transport import Transport

__all__ = ["Transport"]
