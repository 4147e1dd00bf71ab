"""Singletons in eager mode: the one process leads each from its first message on, until the agent is declared dead."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.agents.directory import Directory
from orchestrator.agents.singleton import DEPOSED, ELECTED, singleton_election, term_message
from orchestrator.coordination.in_memory_named_leases import InMemoryNamedLeases
from orchestrator.coordination.named_leases import Wanted
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import LeaseHeld, LeaseTaken, OwnerGone
from orchestrator.sending.messages.agent_messages import build_agent_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions
from orchestrator.worker.execution.owner import Owner


class EagerSingletons:
    """Begins terms, and has agents called with them, as the candidates of workers do."""

    def __init__(
        self,
        directory: Directory,
        leases: Callable[[], InMemoryNamedLeases],
        incarnation: Callable[[str], str],
        send: Callable[[OutgoingMessage], object],
    ) -> None:
        self._directory = directory
        self._leases = leases
        self._incarnation = incarnation
        self._send = send
        #: By singleton: the incarnation that has asked to lead it.
        self._asked: dict[str, str] = {}

    def lead(self, agent: str) -> None:
        """Lead an agent that is about to handle a message, if it is a singleton that nobody leads."""
        spec = self._directory.declared.get(agent)
        if spec is None or not spec.singleton:
            return
        owner = self._incarnation(agent)
        if self._asked.get(agent) == owner:
            return
        self._asked[agent] = owner
        name, leases = singleton_election(agent), self._leases()
        before = leases.last_term(name)
        try:
            grant = leases.acquire(Wanted(Kind.ELECTION, name, Owner(owner, agent), 0.0))
        except (OwnerGone, LeaseTaken, LeaseHeld):
            # It was declared dead; its messages are handled all the same.
            return
        if before is not None and before.ended:
            self._announce(agent, DEPOSED, before)
        self._announce(agent, ELECTED, Term(name, grant.fence, owner, grant.since_ms / 1000))

    def _announce(self, agent: str, name: str, term: Term) -> None:
        if name in self._directory.declared[agent].handlers:
            self._send(build_agent_message(self._directory, agent, term_message(name, term), CheckedOptions()))
