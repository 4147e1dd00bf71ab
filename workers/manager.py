"""The monitor manager as a worker of its own: ``celery -A workers.manager worker -n manager@%h``.

It serves the sweep's mailbox and nothing else, in a pool that cannot lose a child: no task that hangs or eats memory
can keep it from looking for the dead. One is enough, two on two hosts are better; they take turns.
"""

from __future__ import annotations

from orchestrator.maintenance.manager import QUEUE
from workers.app import assemble

orchestrator = assemble()
app = orchestrator.app
app.conf.worker_pool = "solo"
app.amqp.queues.select([QUEUE])
