"""All errors of this library in one tree: the caller's fault, the agent's, or the infrastructure's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.core.plural import counted
from orchestrator.core.redis_refusals import cause_of, is_reply
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.secrets.long_texts import shortened
from orchestrator.core.secrets.masked_repr import masked, masked_repr
from orchestrator.core.spelling.nearest import meant

#: Members of a broadcast that a text names, at most.
_NAMED: Final = 20

#: Most characters shown of another handler's error: of its beginning, and of its end, which names the first cause if
#: handlers call handlers.
_BEGINNING: Final = 500
_END: Final = 500


#: The same of each error, where several are listed.
_OF_EACH: Final = 200


class OrchestratorError(Exception):
    """Base of all errors of this library."""

    def __reduce__(self) -> Any:
        # `args` has the text, not the arguments of `__init__`; pools and result backends pickle errors.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(cls: type[OrchestratorError], args: tuple[Any, ...], state: dict[str, Any]) -> OrchestratorError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class CallerError(OrchestratorError):
    """The request is wrong; the same request will fail again."""


class AgentError(OrchestratorError):
    """An agent's handler failed."""


class InfrastructureError(OrchestratorError):
    """Redis, a worker or the machine is not available; the same request may succeed later."""


def _listed(names: Iterable[str]) -> str:
    known = ", ".join(sorted(names))
    return known or "none"


def _why(outcome: object) -> str:
    """Why something was not handled: the reason and the error of a dead delivery, else the outcome."""
    error = getattr(outcome, "error", None)
    if not isinstance(error, str) or not error:
        return str(outcome)
    text = masked(shortened(error))
    if len(text) > _BEGINNING + _END:
        text = f"{text[:_BEGINNING]} … {text[-_END:]}"
    return f"{getattr(outcome, 'reason', '')}: {text}"


def _short(error: Exception) -> str:
    """An error's type and the beginning of its text, for a list of several."""
    text = " ".join(masked(shortened(str(error))).split())
    text = text if len(text) <= _OF_EACH else f"{text[: _OF_EACH - 3]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class UnknownAgent(CallerError):
    """No agent of that name is declared in this process or registered in Redis."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = tuple(known)
        super().__init__(f"unknown agent {masked_repr(name)}; known agents: {_listed(known)}{meant(name, known)}")
        self.name = name


class NoAgents(CallerError):
    """No known agent handles a message and offers all that is needed."""

    def __init__(
        self,
        message: str,
        needs: Iterable[str],
        known: Mapping[str, Iterable[str]],
        living: str = "",
    ) -> None:
        self.message = message
        self.needs = tuple(needs)
        shown = [f"{name} ({', '.join(sorted(has)) or 'nothing'})" for name, has in sorted(known.items())]
        offered = {one for has in known.values() for one in has}
        meant_ = [text for need in self.needs if need not in offered and (text := meant(need, offered))]
        which, hint = ("living", "") if living else ("known", "; with place_within_s the step waits for one")
        super().__init__(
            f"no {which} agent handles {message} and offers {living or ', '.join(self.needs)}; agents that handle it, "
            f"and what they offer: {_listed(shown)}{''.join(meant_)}{hint}"
        )


class NoVoters(NoAgents):
    """A proposal names no agent to vote on it."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.needs = ()
        CallerError.__init__(self, f"voters: none are named to vote on {message}; allowed: at least one agent")


class UnknownMessage(CallerError):
    """The agent has no handler for that message type."""

    def __init__(self, agent: str, message: str, known: Iterable[str], allowed: str = "") -> None:
        self.known = tuple(known)
        super().__init__(
            f"agent {masked_repr(agent)} does not handle {masked_repr(message)}; it handles: {_listed(self.known)}"
            f"{f'; allowed: {allowed}' if allowed else meant(message, self.known)}"
        )
        self.agent = agent
        self.message = message


class InvalidMessage(CallerError):
    """A message's fields do not fit its model."""

    def __init__(self, message: str, problems: Iterable[str]) -> None:
        self.message = message
        self.problems = tuple(problems)
        super().__init__(f"invalid {message}: " + "; ".join(self.problems))


class MessageTooLarge(CallerError):
    """A message has more bytes in Redis than ``max_message_bytes`` allows."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"message of {size} bytes, as it would lie in Redis; allowed: {limit} (max_message_bytes); "
            "keep what is large elsewhere, and send where it is"
        )
        #: In bytes, envelope and headers included.
        self.size = size
        self.limit = limit


class InvalidPolicy(CallerError):
    """A policy, an option or an argument has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{masked(f'{name}={masked_repr(value)}')} is not allowed; allowed: {allowed}")


class InvalidWorkflow(CallerError):
    """A workflow's definition has faults."""

    def __init__(self, name: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"invalid workflow {masked_repr(name)}: " + "; ".join(self.problems))


class WorkflowExists(CallerError):
    """There is a run with that ``workflow_id``, of another definition, or another one than a fork with it would be."""

    def __init__(self, workflow_id: str, taken_by: str = "a run of another definition") -> None:
        super().__init__(f"workflow_id={masked_repr(workflow_id)} is taken by {taken_by}; allowed: another id")
        self.workflow_id = workflow_id


class UnknownWorkflow(CallerError):
    """There is no run with that id, or it is not kept any more."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"no run of a workflow has the id {masked_repr(workflow_id)}, or it is not kept any more")
        self.workflow_id = workflow_id


class InvalidSchedule(CallerError):
    """A schedule's definition has faults: all of them, each with its field, value and what is allowed."""

    def __init__(self, schedule_id: str, faults: Iterable[ScheduleFault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            f"invalid schedule{f' {masked_repr(schedule_id)}' if schedule_id else ''}: "
            + "; ".join(str(fault) for fault in self.faults)
        )
        self.schedule_id = schedule_id


class ScheduleExists(CallerError):
    """There is a schedule with that id, and it was added with ``if_exists="error"``."""

    def __init__(self, schedule_id: str) -> None:
        super().__init__(
            f"schedule {masked_repr(schedule_id)} exists; allowed: another id, or if_exists='replace' or 'keep'"
        )
        self.schedule_id = schedule_id


class UnknownHierarchy(CallerError):
    """There is no hierarchy of that name."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        known = tuple(known)
        super().__init__(f"unknown hierarchy {masked_repr(name)}; known: {_listed(known)}{meant(name, known)}")
        self.name = name


class UnknownBallot(CallerError):
    """There is no ballot with that id, or it is not kept any more."""

    def __init__(self, ballot_id: str) -> None:
        super().__init__(f"no ballot has the id {masked_repr(ballot_id)}, or it is not kept any more")
        self.ballot_id = ballot_id


class BallotExists(CallerError):
    """There is a ballot with that id, on something else."""

    def __init__(self, ballot_id: str) -> None:
        super().__init__(
            f"id={masked_repr(ballot_id)} is taken by a ballot with another proposal, other voters or another rule; "
            "allowed: another id"
        )
        self.ballot_id = ballot_id


class UnknownSchedule(CallerError):
    """There is no schedule with that id."""

    def __init__(self, schedule_id: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"unknown schedule {masked_repr(schedule_id)}{meant(schedule_id, known)}")
        self.schedule_id = schedule_id


class RunEnded(CallerError):
    """A dead letter is a step of a run whose compensation has begun, so that it is not replayed.

    Letters of its compensations are.
    """

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"a dead letter in {queue!r} is a step of a run that is compensated, or was; "
            "allowed: letters of its compensations, and of other runs"
        )
        self.queue = queue


class StepGoesOn(CallerError):
    """A dead letter is an earlier attempt of a run's step that has begun again since, so that it is not replayed."""

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"a dead letter in {queue!r} is of a step that has begun again, and would end that attempt; "
            "allowed: letters of steps that are dead"
        )
        self.queue = queue


class ResultTooLarge(AgentError):
    """The result of a workflow's step, or of an ask, has more bytes than ``result_limit_bytes`` allows."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"result of {size} bytes as JSON; allowed for a workflow's step or an ask: {limit} (result_limit_bytes); "
            "keep what is large elsewhere, and return where it is"
        )
        self.size = size
        self.limit = limit


class ReplacementFailed(AgentError):
    """What replaced a task (``self.replace``) failed before its last task, whose outcome is the delivery's."""

    def __init__(self, task: str, error: str) -> None:
        super().__init__(f"what replaced {task} failed before its last task: {error}")
        self.task = task
        self.error = error


class InvalidStepInput(AgentError):
    """An argument of a workflow's step refers to a part of a result that is not there."""


class InvalidExpansion(AgentError):
    """A handler has returned or called steps that cannot be steps of its run."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("invalid expansion: " + "; ".join(self.problems))


class StepFailed(AgentError):
    """A call of a workflow function was not handled. A function that does not catch this error fails with it."""

    def __init__(self, step: str, outcome: object) -> None:
        super().__init__(f"{step} was not handled: {_why(outcome)}")
        #: The name of the step, and its outcome.
        self.step = step
        self.outcome = outcome


class CallNotDeployed(StepFailed):
    """A call of a workflow function failed by what is deployed: no worker has its task, or its handler was not run.

    A function that does not catch this error is not compensated: after a deploy, a retry of the call goes on.
    """


class Nondeterministic(AgentError):
    """A workflow function, executed again, asks for something else than it did before."""

    def __init__(self, function: str, position: int, recorded: str, asked: str) -> None:
        super().__init__(
            f"{function} is not deterministic: its call {position} was {recorded!r}, and is now {asked!r}; "
            "allowed: the same calls in the same order, as long as runs of it are open"
        )
        self.position = position
        self.recorded = recorded
        self.asked = asked


class TooManyCalls(AgentError):
    """A workflow function has made more calls than one may."""

    def __init__(self, function: str, calls: int, limit: int) -> None:
        super().__init__(
            f"{function} makes {calls} calls; allowed: {limit}; call another workflow function for a part of them"
        )
        self.limit = limit


class SuspensionCaught(AgentError):
    """A workflow function has caught what ends its execution until a call has its outcome."""

    def __init__(self, function: str, position: int) -> None:
        super().__init__(
            f"{function} has caught the suspension of its call {position}; "
            "allowed: `except Exception`, but no bare except, `except BaseException` or return in finally around calls"
        )
        self.position = position


class InvalidDeclaration(CallerError):
    """A worker cannot host an agent class as it is declared."""


class InvalidSettings(CallerError):
    """Settings of the environment, a profile file, Celery or the transport have values that are not allowed."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("invalid settings: " + "; ".join(self.problems))


class UnsuitableRedis(InvalidSettings):
    """The Redis of the broker URL cannot keep this library's guarantees."""

    def __init__(self, url: str, problems: Iterable[str]) -> None:
        self.url = url
        self.problems = tuple(problems)
        Exception.__init__(self, f"Redis at {url} is not fit: " + "; ".join(self.problems))


class UnknownDeadLetter(CallerError):
    """There is no dead letter with that id, or it was removed."""

    def __init__(self, letter_id: str) -> None:
        super().__init__(f"unknown dead letter {masked_repr(letter_id)}; `dead-letters list` shows those there are")
        self.letter_id = letter_id


class UnknownDelivery(CallerError):
    """No delivery with that id is in a mailbox, has a recorded outcome, or is a dead letter."""

    def __init__(self, delivery_id: object) -> None:
        super().__init__(
            f"unknown delivery {masked_repr(delivery_id)}: no mailbox holds it, no outcome is recorded, "
            "and it is no dead letter; "
            "outcomes are kept for outcome_ttl_s after the end, and those of sends with track=False are not recorded"
        )
        self.delivery_id = delivery_id


class UntrackedDelivery(CallerError):
    """A delivery was sent with ``track=False``, so no outcome will be recorded to wait for."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(
            f"delivery {delivery_id} was sent with track=False: no outcome is recorded, so nothing can wait for it; "
            "allowed while it is pending: status(), history(), cancel()"
        )
        self.delivery_id = delivery_id


class DetachedDelivery(CallerError):
    """A delivery that was pickled has no connection to a broker."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(
            f"delivery {delivery_id} was unpickled and has no connection to a broker; "
            f"allowed: orchestrator.delivery({masked_repr(delivery_id)})"
        )
        self.delivery_id = delivery_id


class NoOwner(CallerError):
    """Something needs an owner: a monitor who gets its DOWN, an ask who gets its reply. There is none here."""

    def __init__(
        self,
        what: str = "monitor",
        allowed: str = "inside an agent's handler, or `with orchestrator.monitors.session():`",
        *,
        forked: bool = False,
    ) -> None:
        article = "an" if what[:1] in "aeiou" else "a"
        here = "thread"
        if forked:
            here = "process was forked, its parent's sessions and attempts are not its own, and it"
            allowed = "`with orchestrator.monitors.session():` in the forked process"
        super().__init__(f"this {here} has no owner for {article} {what}; allowed: {allowed}")


class InvalidExport(CallerError):
    """A line of an export file is not a dead letter."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}; allowed: a line of `dead-letters export`")
        self.line = line


class NotSupervised(CallerError):
    """The Celery app has no Orchestrator, or its broker does not support what was requested."""


class SendFailed(AgentError):
    """A send with ``on_error="raise"`` ended in something other than *handled*."""

    def __init__(self, delivery_id: str, outcome: object) -> None:
        super().__init__(f"delivery {delivery_id} was not handled: {_why(outcome)}")
        self.delivery_id = delivery_id
        self.outcome = outcome


class HandlerFailed(AgentError):
    """A handler raised an error that could not be passed on as it was."""


class HandlerNotRun(AgentError):
    """A handler returned a coroutine or a generator, whose code has not run."""

    def __init__(self, handler: str, returned: str) -> None:
        super().__init__(
            f"{handler} returned a {returned}, so its code has not run; allowed: a function without async and yield"
        )


class InvalidResult(AgentError):
    """A handler returned a value that is not JSON data, or no vote. The handler has run, so it is not retried."""

    def __init__(self, handler: str, returned: str, problem: object, wanted: str = "JSON data") -> None:
        super().__init__(f"{handler} returned a {returned}, which is not {wanted}: {problem}")


class ResultNotStored(AgentError):
    """A handler returned, but its result could not be stored or passed on. It is not retried."""

    def __init__(self, handler: str, problem: str) -> None:
        super().__init__(f"{handler} returned, but its result could not be stored or passed on: {problem}")


class HandlerTimeout(AgentError):
    """A handler ran longer than its ``timeout_s``."""

    def __init__(self, handler: str, timeout_s: float) -> None:
        super().__init__(f"{handler} did not finish within {timeout_s:g} s")
        self.timeout_s = timeout_s


class DeadlinePassed(AgentError):
    """A delivery's deadline passed before an attempt could begin."""

    def __init__(self, handler: str, late_s: float) -> None:
        super().__init__(f"the deadline passed {late_s:g} s before an attempt of {handler} could begin")
        self.late_s = late_s


class AgentDown(InfrastructureError):
    """A message with ``when_down="error"`` was sent to an agent that no living worker hosts."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{masked_repr(name)} has no living incarnation; nothing was sent (when_down='error')")
        self.name = name


class DeliveryTimeout(InfrastructureError):
    """No outcome was recorded within the caller's timeout, or the deadline of a request has ended it."""

    def __init__(self, delivery_id: str, timeout_s: float, text: str = "") -> None:
        super().__init__(text or f"delivery {delivery_id} has no recorded outcome after {timeout_s:g} s")
        self.delivery_id = delivery_id
        self.timeout_s = timeout_s


class NotDecided(InfrastructureError):
    """A ballot was not decided within the time that was waited; it goes on."""

    def __init__(self, ballot_id: str, timeout_s: float) -> None:
        super().__init__(f"ballot {masked_repr(ballot_id)} is not decided after {timeout_s:g} s; it goes on")
        self.ballot_id = ballot_id
        self.timeout_s = timeout_s


class BrokerUnavailable(InfrastructureError):
    """Redis did not reply, or refused the command. The text begins with the cause of a refusal."""

    def __init__(self, url: str, reason: object) -> None:
        cause = cause_of(str(reason))
        if not cause and is_reply(reason):
            cause = "Redis refused a command"
        super().__init__(f"{cause}; broker {url}: {reason}" if cause else f"broker {url} is not available: {reason}")
        self.url = url


class BrokenKey(BrokerUnavailable):
    """Redis is well, but a key is of another type than this library keeps there: something else has written it."""

    def __init__(self, url: str, key: str, found: str, needed: str, reason: object) -> None:
        super().__init__(url, reason)
        # A worker's log names its broker when it starts.
        where = f"; broker {url}" if url else ""
        text = (
            f"key {masked_repr(key)} in Redis is a {found}, written by something else; allowed: a {needed}; move it "
            f"away (RENAME) or delete it{where}: {reason}"
        )
        self.args = (text,)
        self.key = key
        #: Its type in Redis, and the one that it should be of: ``string``, ``hash``, ``zset``, …
        self.found = found
        self.needed = needed


class UnreadableKey(BrokenKey):
    """Redis is well, but a key holds what this library does not write there: something else has written it."""

    def __init__(self, url: str, key: str, kind: str, reason: BaseException) -> None:
        super().__init__(url, key, kind, kind, reason)
        what = f"{type(reason).__name__}: {reason}"
        text = (
            f"key {masked_repr(key)} in Redis holds what this library does not write there ({what}), written by "
            f"something else; move it away (RENAME) or delete it; broker {url}"
        )
        self.args = (text,)


class OwnerGone(InfrastructureError):
    """The owner of a monitor or a lease is not alive in Redis: its heartbeats were missed, or it has ended."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"{owner} has ended or was declared dead, so it owns nothing; what it had is gone")
        self.owner = owner


class LeaseTaken(InfrastructureError):
    """Others held a lease, an election or all permits of a semaphore for the whole time that was waited."""

    def __init__(self, kind: str, name: str, wait_s: float, holder: str = "") -> None:
        by = f" by {holder}" if holder else ""
        super().__init__(f"{kind} {masked_repr(name)} is taken{by}; waited {wait_s:g} s")
        self.kind = kind
        self.name = name
        self.wait_s = wait_s
        #: The incarnation or session that held it, if that is known.
        self.holder = holder


class PoolEmpty(InfrastructureError):
    """No resource of a pool was free for the whole time that was waited."""

    def __init__(self, name: str, wait_s: float) -> None:
        super().__init__(f"pool {masked_repr(name)} has no free resource; waited {wait_s:g} s")
        self.name = name
        self.wait_s = wait_s


class LeaseLost(InfrastructureError):
    """A lease or a permit is lost: its owner was declared dead, its time is over, or Redis has lost it."""

    def __init__(self, kind: str, name: str, fence: int) -> None:
        super().__init__(f"{kind} {masked_repr(name)} with the fencing token {fence} is held no more")
        self.kind = kind
        self.name = name
        self.fence = fence


class BarrierBroken(InfrastructureError):
    """A generation of a barrier has not tripped, and will not; nor does the next one begin before a reset."""

    def __init__(
        self,
        name: str,
        generation: int,
        reason: str,
        party: str,
        arrived: tuple[str, ...],
        missing: int,
        missing_parties: tuple[str, ...],
    ) -> None:
        by = f" of party {masked_repr(party)}" if party else ""
        named = f": {', '.join(missing_parties[:10])}" if missing_parties else ""
        count = f"; {missing} missing{named}" if missing else ""
        super().__init__(f"barrier {masked_repr(name)} is broken in generation {generation}: {reason}{by}{count}")
        self.name = name
        self.generation = generation
        #: ``timeout``, ``wait timeout``, ``interrupted``, ``reset``, ``lost``, ``attempt ended``, or why a party died.
        self.reason = reason
        #: The party that has broken it; empty if none has.
        self.party = party
        #: Who had arrived; of more than 100, some.
        self.arrived = arrived
        #: How many were missing.
        self.missing = missing
        #: Who they were, of parties that are declared by name.
        self.missing_parties = missing_parties


class NoCandidate(CallerError):
    """The candidate named in ``resign(to=…)`` is not waiting to lead; the term goes on."""

    def __init__(self, election: str, candidate: str, waiting: Sequence[str]) -> None:
        allowed = ", ".join(waiting[:20]) or "nobody waits"
        super().__init__(
            f"{masked_repr(candidate)} is no candidate of election {masked_repr(election)}; allowed: {allowed}"
        )
        self.election = election
        self.candidate = candidate
        self.waiting = tuple(waiting)


class LeaseHeld(CallerError):
    """The owner holds this lease, or leads this election, already; to wait for itself, it would wait for ever."""

    def __init__(self, kind: str, name: str, owner: str) -> None:
        more = "; allowed: reentrant=True" if kind == "lease" else ""
        super().__init__(f"{kind} {masked_repr(name)} is held by {owner}, which asks for it again{more}")
        self.kind = kind
        self.name = name
        self.owner = owner


class NotAccepted(Exception):
    """Base of what says that Redis has replied and did not take a message: the connection is as good as before."""


class _Refused(NotAccepted):
    """The counts that the errors of flow control have after a bulk send."""

    #: Number of messages accepted before the failure.
    accepted = 0
    #: Number of messages in the bulk send; 0 if it is not known, or for a single send.
    requested = 0

    def __str__(self) -> str:
        of = f" of {self.requested}" if self.requested else ""
        return super().__str__() + (f"; accepted before that: {self.accepted}{of}" if self.accepted or of else "")


class MailboxFull(_Refused, InfrastructureError):
    """The recipient's mailbox is full, and its agent's ``overflow`` refuses more messages."""

    def __init__(self, recipient: str, *, depth: int, limit: int) -> None:
        super().__init__(
            f"the mailbox of {masked_repr(recipient)} is full: {counted(depth, 'message')} waiting; allowed: {limit}"
        )
        self.recipient = recipient
        self.depth = depth
        self.limit = limit


class CircuitOpen(_Refused, InfrastructureError):
    """The recipient's circuit breaker is open: too many of its last attempts failed."""

    def __init__(self, recipient: str, retry_after_s: float, isolated: str | None = None) -> None:
        state = f"open; the next probe is due in {retry_after_s:g} s"
        if isolated is not None:
            state = f"isolated until it is closed by hand: {masked_repr(isolated)}"
        super().__init__(f"the circuit breaker of {masked_repr(recipient)} is {state}")
        self.recipient = recipient
        #: Seconds until the next probe may be sent; if the breaker is isolated, ``open_s``.
        self.retry_after_s = retry_after_s
        #: Why the breaker was isolated by hand; ``None`` if it is not isolated.
        self.isolated = isolated


class BulkheadFull(_Refused, InfrastructureError):
    """As many requests as the recipient's bulkhead allows were in flight for the whole time that was waited."""

    def __init__(self, recipient: str, in_flight: int, limit: int, waited_s: float) -> None:
        super().__init__(
            f"the bulkhead of {masked_repr(recipient)} is full: {counted(in_flight, 'request')} in flight; "
            f"allowed: {limit}; waited {waited_s:g} s"
        )
        self.recipient = recipient
        self.in_flight = in_flight
        self.limit = limit


class CallWouldDeadlock(InfrastructureError):
    """A call with ``on_deadlock="error"`` would wait for itself: all slots that could answer it wait in calls."""

    def __init__(self, ring: Iterable[str], no_slot: str = "") -> None:
        #: The agents that wait for each other, from the one that calls to itself.
        self.ring = tuple(ring)
        why = no_slot or "all slots of their workers wait in calls"
        super().__init__(f"the call would wait for itself: {' → '.join(self.ring)}; {why}")


class NotEnoughReplies(InfrastructureError):
    """Fewer agents than needed have replied. ``results`` and ``errors`` say, by agent, what they have."""

    def __init__(self, needed: int, results: Mapping[str, Any], errors: Mapping[str, Exception]) -> None:
        self.needed = needed
        self.results = dict(results)
        self.errors = dict(errors)
        named = [f"{agent}: {_short(error)}" for agent, error in self.errors.items()]
        more = f", and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        super().__init__(f"{len(results)} replied; needed: {needed}; {', '.join(named[:_NAMED])}{more}")


class OutdatedWorker(InfrastructureError):
    """A living worker is of a version that would not do what follows on what it handles: a step, a vote, a reply."""

    def __init__(self, incarnation: str, version: str, queue: str, would: str) -> None:
        super().__init__(
            f"incarnation {incarnation}, of version {version or 'unknown'} of this library, consumes "
            f"{masked_repr(queue)}, and would {would}; nothing was started; allowed: once it has been stopped or "
            "upgraded"
        )
        self.incarnation = incarnation
        self.version = version
        self.queue = queue


class BroadcastRefused(InfrastructureError):
    """No copy of a broadcast was sent.

    With ``all_or_nothing`` at least one member could not accept it, with ``at_least_one`` none could. ``members`` maps
    each of these members to its reason.
    """

    def __init__(self, strategy: str, members: Mapping[str, str]) -> None:
        self.strategy = strategy
        self.members = dict(members)
        refusals = [f"{name} ({why})" for name, why in list(self.members.items())[:_NAMED]]
        more = f" and {len(self.members) - _NAMED} more" if len(self.members) > _NAMED else ""
        super().__init__(f"{strategy} broadcast not sent; could not take it: {', '.join(refusals)}{more}")


class DistributionRefused(InfrastructureError):
    """No item of a distribution was sent: its agents do not take all of them. ``members`` says why, by agent."""

    def __init__(self, items: int, room: int, members: Mapping[str, str]) -> None:
        self.items = items
        #: Number of items that the agents would take.
        self.room = room
        self.members = dict(members)
        refusals = [f"{name} ({why})" for name, why in list(self.members.items())[:_NAMED]]
        more = f" and {len(self.members) - _NAMED} more" if len(self.members) > _NAMED else ""
        super().__init__(
            f"no item was sent: {counted(items, 'item')}, and the agents take {room}; "
            f"these take no more: {', '.join(refusals) or 'none'}{more}"
        )


class EmbeddedServerError(InfrastructureError):
    """The embedded Redis server could not be found, started or stopped."""
