"""A worker campaigns for the singletons that it hosts, and leads each from its turn until its incarnation ends.

``claim.lua`` gives the messages of a singleton's mailbox to its leader alone, once its term is announced. A leader that
dies is replaced by the death hook, which comes after its messages were requeued: so no message is claimed in two terms
at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final
from uuid import uuid4

from celery import bootsteps

from orchestrator.agents.singleton import DEPOSED, ELECTED, singleton_election, term_message
from orchestrator.coordination.named_leases import Grant, Wanted
from orchestrator.coordination.redis_named_leases import RedisNamedLeases
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import BrokerUnavailable, OrchestratorError, OwnerGone
from orchestrator.core.log import get_logger
from orchestrator.sending.messages.agent_messages import build_agent_message
from orchestrator.sending.messages.recorded_message import RecordedMessage, record_message
from orchestrator.sending.send_options import CheckedOptions
from orchestrator.transport.redis.refused_work import RefusedWork
from orchestrator.worker.bootsteps.consuming_thread import ConsumingThread
from orchestrator.worker.execution.owner import Owner

logger = get_logger(__name__)

#: Between two looks at whether this worker leads.
_LOOK_S: Final = 1.0

#: For how long a request stays in the line of candidates if it is not repeated.
_WAIT_S: Final = 5.0

#: Between two looks for the incarnation of a worker that is starting.
_SOON_S: Final = 0.1


class _Candidacy:
    """One incarnation's request to lead one singleton."""

    def __init__(self, agent: str, owner: str) -> None:
        self.agent = agent
        self.token = uuid4().hex
        self.wanted = Wanted(Kind.ELECTION, singleton_election(agent), Owner(owner, agent), _WAIT_S)
        self.leads = False
        #: The error that its last attempt ended with, as text.
        self.failed_with = ""


class Candidates:
    """A thread of a worker's main process that campaigns for its singletons."""

    def __init__(
        self,
        agents: Iterable[str],
        leases: Callable[[], RedisNamedLeases],
        write: Callable[[str, str, Term], RecordedMessage | None],
        incarnation: Callable[[], str],
        declare: Callable[[str], Collection[str]],
    ) -> None:
        self._agents = tuple(agents)
        self._declare = declare
        #: By agent: the workers that were last found to host it without declaring the singleton.
        self._differing: dict[str, Collection[str]] = {}
        self._leases = leases
        self._write = write
        self._incarnation = incarnation
        self._thread = ConsumingThread(self._run, "orchestrator-candidates")
        self._owner = ""
        self._candidacies: list[_Candidacy] = []
        self._refused = RefusedWork(logger, "each second")

    def start(self) -> None:
        """Campaign from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the line. Who leads goes on to, until its incarnation ends."""
        self._thread.stop()

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                wait_s = self._campaign(stopped)
                if wait_s:
                    waiting = [one.token for one in self._candidacies if not one.leads]
                    if waiting:
                        self._leases().sleep(waiting, wait_s)
                    else:
                        stopped.wait(wait_s)
            except OwnerGone:
                # It was fenced, and registers anew.
                stopped.wait(_SOON_S)
            except OrchestratorError as error:
                logger.debug("no campaign for singletons: %s", error)
                stopped.wait(_LOOK_S)
            except Exception:
                logger.exception("campaigning for singletons failed; it is tried again")
                stopped.wait(_LOOK_S)
        for one in self._candidacies:
            if not one.leads:
                token, one.token = one.token, uuid4().hex
                # Where Redis is away it is withdrawn later, perhaps after the next request: that one has another token.
                self._leases().withdraw(one.wanted, token)

    def _campaign(self, stopped: threading.Event) -> float:
        """Ask for each singleton; returns how long to wait before the next look, or 0 for none."""
        owner = self._incarnation()
        if not owner:
            stopped.wait(_SOON_S)
            return 0
        if owner != self._owner:
            self._owner = owner
            self._candidacies = [_Candidacy(agent, owner) for agent in self._agents]
        for one in self._candidacies:
            # An error of one must not leave the others without a leader.
            try:
                self._ask_to_lead(one)
                one.failed_with = ""
            except OwnerGone:
                raise
            except BrokerUnavailable as error:
                self._refused.pass_over(f"the campaign for agent {one.agent}", error)
            except Exception as error:
                # Once, and not each second.
                if one.failed_with != (failed_with := f"{type(error).__name__}: {error}"):
                    one.failed_with = failed_with
                    logger.exception("the campaign for agent %s failed; it is tried again each second", one.agent)
        return _LOOK_S

    def _ask_to_lead(self, one: _Candidacy) -> None:
        self._declare_again(one.agent)
        grant = self._leases().ask(one.wanted, one.token, _WAIT_S)
        one.leads = grant is not None
        if grant is not None and not self._leases().is_announced(grant.name, grant.fence):
            logger.info("incarnation %s leads agent %s in term %d", self._owner, one.agent, grant.fence)
            self._announce_term(one.agent, grant)

    def _declare_again(self, agent: str) -> None:
        """Declare the singleton, which another worker may have ended, and log which workers do not declare it."""
        differing = self._declare(agent)
        for other in sorted(set(differing) - set(self._differing.get(agent, ()))):
            logger.warning(
                "agent %s: incarnation %s declares singleton = True, but %s declares singleton = False: that one takes"
                " no part in the election and claims none of the agent's messages, as long as a living worker declares"
                " True",
                agent, self._owner, other,
            )  # fmt: skip
        self._differing[agent] = differing

    def _announce_term(self, agent: str, grant: Grant) -> None:
        """Have the agent called with the terms before of whose ends it was not told, and with this one."""
        leases = self._leases()
        term = Term(grant.name, grant.fence, grant.owner.id, grant.since_ms / 1000)
        calls = [(DEPOSED, ended) for ended in leases.unannounced_ends(grant.name, grant.fence)]
        written = [self._write(agent, name, about) for name, about in (*calls, (ELECTED, term))]
        messages = [message for message in written if message is not None]
        leases.announce(grant.name, term.number, messages[0].queue if messages else "", [one.text for one in messages])


class CampaignForSingletons(bootsteps.StartStopStep):
    """Starts the candidates with a worker's consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._candidates: Candidates | None = None
        orchestrator = getattr(consumer.app, "orchestrator", None)
        if orchestrator is None or not orchestrator.runtime.is_supervised:
            return
        queues = consumer.app.amqp.queues.consume_from
        singletons = [name for name, spec in orchestrator.agents.items() if spec.singleton and spec.queue in queues]
        if not singletons:
            return

        def write(agent: str, name: str, term: Term) -> RecordedMessage | None:
            if name not in orchestrator.agents[agent].handlers:
                return None
            message = build_agent_message(runtime.directory, agent, term_message(name, term), CheckedOptions())
            return record_message(consumer.app, message, runtime.hidden.names, "singleton", "an agent with one mailbox")

        def incarnation() -> str:
            channel = getattr(consumer.task_consumer, "channel", None)
            known = str(getattr(channel, "incarnation", ""))
            return known if "#" in known else ""

        runtime = orchestrator.runtime

        def declare(agent: str) -> Collection[str]:
            found: list[str] = runtime.redis.declare_singleton(orchestrator.agents[agent])
            return found

        self._candidates = Candidates(singletons, lambda: runtime.redis.named_leases, write, incarnation, declare)

    def start(self, consumer: Any) -> None:
        """Called on every (re)connection."""
        if self._candidates is not None:
            self._candidates.start()

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker stops."""
        if self._candidates is not None:
            self._candidates.stop()
