"""The class that users derive their agents from."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.concurrency import Concurrency
from orchestrator.core.admission.flow_policy import Breaker, Mailbox
from orchestrator.core.deliveries.down import Down
from orchestrator.core.log import get_logger
from orchestrator.core.policies.policy import OnError, Retry, WhenDown, WhenOpen
from orchestrator.core.workflows.cancelled_step import CancelledStep

if TYPE_CHECKING:
    from orchestrator.agents.context import Context

logger = get_logger(__name__)


class Agent:
    """Base of every agent.

    Subclass it, give it a ``name``, and mark a method per message with :func:`handles`. A worker makes one
    instance per process; handlers of one process may run at the same time where the pool has threads.
    """

    #: Its name for senders; also the name of its mailbox.
    name: ClassVar[str] = ""
    # Its policy, unless the handler, the settings or the send say otherwise; ``None`` leaves it to the defaults.
    #: How failed attempts are retried.
    retry: ClassVar[Retry | None] = None
    #: What happens to a message that has no attempt left.
    on_error: ClassVar[OnError | str | None] = None
    #: Longest time of one attempt (also as a class of ``timeout_classes``), and of all of them with their pauses.
    timeout_s: ClassVar[float | str | None] = None
    deadline_s: ClassVar[float | None] = None
    #: How long a message may wait for its first attempt.
    expires_s: ClassVar[float | None] = None
    #: Whether a message that has waited longer becomes a dead letter.
    dead_letter_expired: ClassVar[bool | None] = None
    #: 0 (first) to 9 (last).
    priority: ClassVar[int | None] = None
    #: Whether a message waits for an agent that is down, or is refused.
    when_down: ClassVar[WhenDown | str | None] = None
    #: Whether a message waits behind the agent's open breaker, or is refused.
    when_open: ClassVar[WhenOpen | str | None] = None
    #: How many messages may wait for it, and what happens to one more; ``None`` for no bound.
    mailbox: ClassVar[Mailbox | None] = None
    #: When its senders are refused because too many attempts fail; ``None`` for never.
    breaker: ClassVar[Breaker | None] = None
    #: How many requests to it may be in flight at a time, over all callers; ``None`` for any number.
    bulkhead: ClassVar[Bulkhead | None] = None
    #: How many of its messages run at a time over all workers, or of each value of a field; ``None`` for as many as
    #: there are slots.
    concurrency: ClassVar[Concurrency | None] = None
    #: What it offers to steps of workflows that name their needs in place of an agent.
    capabilities: ClassVar[Collection[str]] = frozenset()
    #: Whether only one incarnation at a time, the elected leader, claims its messages. Its methods ``on_elected`` and
    #: ``on_deposed``, if it has them, are called with a :class:`Term`: the one that begins, and the one that has ended.
    singleton: ClassVar[bool] = False

    def on_down(self, down: Down, context: Context) -> None:
        """Called once for each monitor of this agent whose target has died; supervised like any handler.

        It may leave the context out. Any incarnation of the agent may be called; ``down.owner`` says which one made
        the monitor.
        """
        logger.warning("agent %s has no on_down; the death of %s is ignored (%s)", self.name, down.target, down)

    def on_cancelled(self, cancelled: CancelledStep, context: Context) -> None:
        """Called once for each step of a cancelled run that a worker of this agent has, or had begun.

        It is supervised like any handler, and may leave the context out. Any incarnation of the agent may be called,
        also while the step's handler still runs, which sees ``context.cancelled``. Nothing is sent to an agent that
        does not have this method.
        """
