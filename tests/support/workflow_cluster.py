"""Clusters of ``tests.apps.workflows_app``."""

from __future__ import annotations

from typing import Any

from orchestrator import Orchestrator
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.functions.function import WorkflowFunction
from orchestrator.workflows.run import Run
from tests.support.cluster import Cluster
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.workflows_app"
QUEUES = "counter,celery,monitor-manager"


class WorkflowCluster(Cluster):
    """Starts workflows, and reads what their steps have noted."""

    def __init__(self, url: str, worker: WorkerProcess | None, orchestrator: Orchestrator, notes: list[str]) -> None:
        super().__init__(url, worker, orchestrator)
        self._notes = notes

    def task(self, name: str, *args: Any) -> Any:
        """A signature of a task, by the end of its name."""
        return self.orchestrator.app.tasks[f"plain.{name}"].s(*args)

    def function(self, name: str) -> WorkflowFunction[..., Any]:
        """A workflow function of :mod:`tests.apps.workflow_functions`."""
        return self.orchestrator.runtime.functions[f"tests.apps.workflow_functions.{name}"]

    def executed(self, name: str, *args: Any, **options: Any) -> Run:
        """A run of a workflow function that has ended."""
        run = self.orchestrator.workflows.start(self.function(name), *args, **options)
        run.wait(20)
        return run

    def ended(self, workflow: Workflow, **options: Any) -> Run:
        """A run of a workflow that has ended."""
        run = self.orchestrator.workflows.start(workflow, **options)
        run.wait(20)
        return run

    def noted(self) -> list[str]:
        """What steps have noted, in their order."""
        if not self.has_worker:
            return list(self._notes)
        return [note.decode() for note in self.redis.lrange("test:noted", 0, -1)]

    def forget(self) -> None:
        """Remove what steps have noted."""
        self._notes.clear()
        if self.has_worker:
            self.redis.delete("test:noted")
