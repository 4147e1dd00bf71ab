"""The start of a worker: it begins to report its health, warns, and may refuse to start."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.core.extras import require_extra
from orchestrator.core.log import get_logger
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.worker.bootsteps.validate_timeouts import refuse_app, refuse_worker, useless_limits
from orchestrator.worker.execution.result_storage import keep_storing
from orchestrator.worker.misnamed_settings import misnamed_settings
from orchestrator.worker.pools import release_tasks, why_unknown
from orchestrator.worker.served_tasks import served_tasks
from orchestrator.worker.startup_warnings import governed_tasks, startup_warnings

if TYPE_CHECKING:
    from orchestrator.wiring.runtime import Runtime

logger = get_logger(__name__)


def begin_worker(runtime: Runtime, node_name: str, worker: Any) -> None:
    """Report this process' health, and know its name, once Celery has made its worker."""
    app = runtime.app
    runtime.heartbeat_fields.worker = worker
    HEALTH_REPORTER.publish(app=app.main or "", broker=app.connection_for_read().as_uri())
    HEALTH_REPORTER.start(node_name, lambda: should_consume(app))
    runtime.configuration.node_name = node_name
    keep_storing(app)


def should_consume(app: Celery) -> bool:
    """Whether this worker should consume: it is not stopping, and has queues to consume from."""
    state = sys.modules.get("celery.worker.state")
    ends = (getattr(state, name, None) for name in ("should_stop", "should_terminate"))
    # An exit code of 0 asks the worker to stop, too.
    if any(code is not None and code is not False for code in ends):
        return False
    return bool(app.amqp.queues.consume_from)


def warn_at_start(runtime: Runtime, worker: Any) -> None:
    """Log what in the configuration does not do what it seems to do, once the worker is set up."""
    app, directory = runtime.app, runtime.directory
    if worker.quiet:
        # In place of Celery's banner.
        pool = worker.pool_cls.__module__.rpartition(".")[2]
        slots = 1 if pool == "solo" else worker.concurrency
        queues = ", ".join(sorted(app.amqp.queues.consume_from))
        logger.info("%s: pool %s, concurrency %s, queues %s", worker.hostname, pool, slots, queues)
    if why := why_unknown(worker.pool_cls):
        release_tasks(app, why)
    known = [*directory.addresses(), *governed_tasks(app, runtime.settings.time_limits)]
    served = served_tasks(app, set(app.amqp.queues.consume_from), directory.mailboxes())
    warnings = startup_warnings(app, known, worker.pool_cls, served)
    for line in (*warnings, *useless_limits(worker), *misnamed_settings(runtime)):
        logger.warning("%s", line)


def refuse_start(runtime: Runtime, worker: Any) -> None:
    """Refuse to start a worker whose settings cannot work.

    Raises:
        InvalidSettings: they cannot; names the values, and what is allowed.
    """
    settings = runtime.settings
    if settings.metrics_port:
        require_extra(f"metrics_port={settings.metrics_port}", "prometheus_client", "prometheus")
    refuse_app(runtime.app, runtime.configuration)
    refuse_worker(worker, runtime.directory.addresses(), settings.time_limits)
