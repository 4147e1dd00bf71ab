"""A workflow function under chaos. Its executions report to the witness, too."""

from __future__ import annotations

from chaos.load import HOPELESS
from chaos.steps import STEPS, Item, Revert, Stage, Total, witnessed
from orchestrator import Orchestrator, Retry, StepFailed, WorkflowContext

#: The mailbox of its own messages: the ledger of the steps' mailbox is compared with their outcomes.
FUNCTIONS = "functions"

#: The name of its task.
ERRAND = "chaos.functions.errand"


def declare(orchestrator: Orchestrator) -> None:
    """Declare it."""
    orchestrator.app.conf.task_routes = {ERRAND: {"queue": FUNCTIONS}}

    @orchestrator.workflow
    def errand(ctx: WorkflowContext, parts: int, failures: int) -> int:
        """Calls several steps at once, waits, catches failures, and calls one step after the other."""
        request = orchestrator.app.current_task.request
        with witnessed(str(request.id), str(request.hostname)):
            numbers = ctx.gather([(STEPS, Item(number=number, nap_ms=5)) for number in range(parts)])
            ctx.sleep(0.05)
            if ctx.random.random() < 0.5:
                ctx.call(STEPS, Stage(), undo=Revert())
            for _ in range(failures):
                try:
                    ctx.call(STEPS, Stage(failures=HOPELESS), retry=Retry(max_retries=0))
                except StepFailed:
                    ctx.call(STEPS, Stage(), undo=Revert())
            ctx.side_effect(lambda: "recorded")
            return int(ctx.call(STEPS, Total(numbers=numbers)))
