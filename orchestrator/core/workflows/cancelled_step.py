"""`CancelledStep`: the message to an agent that a step which it has, or had begun, is cancelled with its run."""

from __future__ import annotations

from orchestrator.core.message import Message


class CancelledStep(Message):
    """A step of a workflow is not attempted again, for its run was cancelled. Its handler may still run."""

    #: The id of the step's delivery, which its handler sees as ``context.id``.
    id: str
    #: The name of the message that its handler got.
    message: str
    #: The ``workflow_id`` of its run, the run's ``uid``, and the names of the workflow and the step.
    workflow_id: str
    uid: str
    workflow: str
    step: str
    #: Why its run was cancelled, as ``deadline passed``; empty if a user has cancelled it.
    because: str = ""
