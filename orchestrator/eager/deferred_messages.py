"""Messages that wait behind open breakers in eager mode (``when_open="queue"``)."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.errors import CircuitOpen
from orchestrator.core.policies.policy import WhenOpen
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


class DeferredMessages:
    """The deferred messages of one process, in their order."""

    def __init__(self, flow: EagerFlowControl, run: Callable[[OutgoingMessage], object]) -> None:
        self._flow = flow
        self._run = run
        #: By agent, oldest first.
        self._waiting: dict[str, list[OutgoingMessage]] = {}

    def defer(self, message: OutgoingMessage, *, may_wait: bool) -> bool:
        """Ask the breaker of a message's agent. Returns whether the message waits, behind others or as the first.

        Without ``may_wait``, an open breaker refuses the message though it asks to wait.

        Raises:
            CircuitOpen: the breaker is open, and the message does not wait.
        """
        agent = message.supervision.agent
        may_wait = may_wait and message.ask is None and message.supervision.when_open == WhenOpen.QUEUE
        if not (may_wait and self._waiting.get(agent)):
            try:
                self._flow.admit(agent)
            except CircuitOpen:
                if not may_wait:
                    raise
            else:
                return False
        self._waiting.setdefault(agent, []).append(message)
        return True

    def let_go(self, agent: str) -> None:
        """Run the messages that wait behind an agent's breaker, as many as it admits."""
        while waiting := self._waiting.get(agent):
            try:
                self._flow.admit(agent)
            except CircuitOpen:
                return
            self._run(waiting.pop(0))

    def find(self, delivery_id: str) -> OutgoingMessage | None:
        """The deferred message of a delivery; ``None`` if it has none."""
        return next((one for messages in self._waiting.values() for one in messages if one.id == delivery_id), None)

    def remove(self, message: OutgoingMessage) -> None:
        """Take a message out of what waits."""
        self._waiting[message.supervision.agent].remove(message)
