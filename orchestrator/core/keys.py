"""The names of all keys in Redis; no other Python module spells one.

No two things share a name, whatever users choose as queues, ids and idempotency keys: after its kind, a name has at
most one free text, at the end; if it has two, the length of the first precedes it. Scripts that build names follow the
same rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.errors import InvalidSettings

#: Consumer group that every worker joins on every mailbox stream.
GROUP = "workers"

#: Days for which counts of run times are kept, the present one included.
RUN_TIME_DAYS = 7

#: Prefix of the level before each priority's own: requeued messages of that priority.
RETURNED = "returned-"

#: Level that never holds a message; an entry in it wakes one blocked reader (see ``delay.lua``).
DOORBELL = "bell"

#: Level that nobody claims from: messages behind an open breaker (see ``includes/deferred.lua``).
DEFERRED = "deferred"

#: Level that nobody claims from: messages that wait for a permit (see ``includes/lanes.lua``).
LANES = "lanes"

_LONGEST_NAME = 100

#: Prefix of a long value's name in the index. A short value with this prefix is treated as a long one.
_SUM = "sha1:"

#: Kinds that scripts look for in a name to get a related key (``flow_of``, ``hooks_of``, ``claim``, …).
_REPLACED_IN_NAMES = ("ledger", "outcome", "delayed", "flow", "schedule", "ask", "ballot")


def levels_of(priorities: Iterable[int]) -> tuple[str, ...]:
    """The levels of a mailbox, in the order in which they are read: per priority requeued messages, then new ones."""
    return tuple(level for priority in priorities for level in (f"{RETURNED}{priority}", str(priority)))


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under kombu's ``global_keyprefix`` (empty by default)."""

    prefix: str = ""

    def __post_init__(self) -> None:
        for kind in _REPLACED_IN_NAMES:
            if f"orc:{kind}:" in self.prefix:
                raise InvalidSettings(
                    [f"global_keyprefix={self.prefix!r}; allowed: a prefix without 'orc:{kind}:' in it"]
                )

    @property
    def root(self) -> str:
        """What every key begins with."""
        return f"{self.prefix}orc:"

    def stream(self, queue: str, level: str | int) -> str:
        """The stream of one level of a mailbox."""
        return f"{self.root}q:{level}:{queue}"

    def deferred(self, queue: str) -> str:
        """The stream of a mailbox in which messages wait behind an open breaker; nobody claims from it."""
        return self.stream(queue, DEFERRED)

    def lanes(self, queue: str) -> str:
        """The stream of a mailbox in which messages wait for a permit; nobody claims from it."""
        return self.stream(queue, LANES)

    def permits(self, queue: str) -> str:
        """Hash of the messages that have permits: level and entry -> key.

        ``lanes.lua`` makes the names of what is beside it.
        """
        return f"{self.root}permits:{queue}"

    def delayed(self, queue: str) -> str:
        """Sorted set of messages not yet due: member -> due time in ms by Redis' clock."""
        return f"{self.root}delayed:{queue}"

    def delayed_bodies(self, queue: str) -> str:
        """Hash of the messages not yet due: member -> payload."""
        return f"{self.root}delayed-body:{queue}"

    def ledger(self, queue: str) -> str:
        """Hash of a mailbox' counters: accepted, handled, dead, …"""
        return f"{self.root}ledger:{queue}"

    def queue_of_ledger(self, key: str) -> str:
        """Inverse of :meth:`ledger`."""
        return key.removeprefix(self.ledger(""))

    def flow(self, queue: str) -> str:
        """Hash of a mailbox' flow control: its bound, its breaker's policy and state. Missing if none is declared."""
        return f"{self.root}flow:{queue}"

    def idempotency(self, agent: str, task: str, key: str) -> str:
        """The delivery that an idempotency key stands for, at an agent, or at a plain task if ``agent`` is empty."""
        kind, recipient = ("agent", agent) if agent else ("task", task)
        return f"{self.root}idempotency:{kind}:{len(recipient)}:{recipient}:{key}"

    def last_publishes(self, period: int) -> str:
        """Hash of the last publishes and calls of a period, in case an answer is lost (see docs/architecture.md)."""
        return f"{self.root}last-publish:{period}"

    def group(self, broadcast: str) -> str:
        """Hash of a broadcast with a compensation, until its last copy has ended.

        ``…:handled`` beside it lists the recipients of the compensation. Ids of broadcasts are made by this library,
        so neither name can be another broadcast's.
        """
        return f"{self.root}group:{broadcast}"

    @property
    def queues(self) -> str:
        """Set of all mailboxes ever declared or published to."""
        return f"{self.root}queues"

    @property
    def leases(self) -> str:
        """Sorted set of living incarnations: id -> last heartbeat in ms by Redis' clock."""
        return f"{self.root}leases"

    @property
    def dataset(self) -> str:
        """Hash of the data set's identity, and of its known losses."""
        return f"{self.root}dataset"

    @property
    def incarnation_counter(self) -> str:
        """Counter behind the ``#N`` of an incarnation; also its fencing token."""
        return f"{self.root}incarnation"

    def incarnation(self, incarnation: str) -> str:
        """Hash of one incarnation's heartbeat."""
        return f"{self.root}incarnation:{incarnation}"

    @property
    def sweep(self) -> str:
        """Hash of the sweep: the time of the last one, its sweeper, and until when no death may be declared."""
        return f"{self.root}sweep"

    def chore(self, name: str) -> str:
        """Mark of a maintenance chore that is not due yet; it expires."""
        return f"{self.root}chore:{name}"

    @property
    def not_polling(self) -> str:
        """Sorted set of incarnations that send heartbeats but do not claim although they could: id -> since when."""
        return f"{self.root}not-polling"

    def oom(self, group: str) -> str:
        """A control group's count of OOM kills when a process in it last read it; expires a minute after it rose."""
        return f"{self.root}oom:{group}"

    @property
    def endings(self) -> str:
        """Stream of endings: messages that ended outside of an execution, until a worker has told Celery."""
        return f"{self.root}endings"

    def endings_reader(self, app: str) -> str:
        """Lease of the one worker of an app that reads the endings."""
        return f"{self.root}endings:reader:{app}"

    @property
    def endings_dropped(self) -> str:
        """Number of endings that were dropped, until a worker has logged it."""
        return f"{self.root}endings:dropped"

    @property
    def endings_taken(self) -> str:
        """Sorted set of the endings that a worker is delivering: id -> until when no other worker may."""
        return f"{self.root}endings:taken"

    @property
    def endings_failed(self) -> str:
        """Hash of the endings whose delivery to Celery failed: id -> how often."""
        return f"{self.root}endings:failed"

    @property
    def dying(self) -> str:
        """Sorted set of fenced incarnations whose messages are being requeued: id -> when they were fenced."""
        return f"{self.root}dying"

    @property
    def disproved(self) -> str:
        """Sorted set of incarnations whose deaths were disproved by their own processes: id -> when, in ms."""
        return f"{self.root}disproved"

    @property
    def deaths(self) -> str:
        """Capped stream of incarnations that were declared dead, and why."""
        return f"{self.root}deaths"

    @property
    def dead_letters(self) -> str:
        """The dead-letter stream."""
        return f"{self.root}dead-letters"

    def letters(self, dimension: str, value: str) -> str:
        """Set of the kinds of the letters with that agent, message, error, reason or group (fingerprint)."""
        return f"{self.root}letters:{dimension}:{indexed(value)}"

    def letters_of(self, kind: str) -> str:
        """Stream of the ids of the letters of a kind: those that agree in all that is indexed."""
        return f"{self.root}letters:kind:{kind}"

    @property
    def letter_kinds(self) -> str:
        """Sorted set of the kinds of letters: kind -> when its last letter was added, in ms."""
        return f"{self.root}letters:kinds"

    @property
    def letter_kind_names(self) -> str:
        """Hash: kind -> its agent, message, error, reason and group, as a JSON list."""
        return f"{self.root}letters:kind-names"

    def letter_arrivals(self, group: str) -> str:
        """Hash of a group's arrivals: hour since 1970 -> letters. The last 48 hours that had any."""
        return f"{self.root}letters:arrivals:{indexed(group)}"

    @property
    def parked_letters(self) -> str:
        """Sorted set, by name, of the ids of parked letters, padded so that they sort in the order of arrival."""
        return f"{self.root}letters:parked"

    @property
    def letter_notes(self) -> str:
        """Hash: parked letter's id -> why, by whom and since when, as JSON."""
        return f"{self.root}letters:notes"

    @property
    def letters_due(self) -> str:
        """Sorted set of letters to be replayed automatically: id -> when, in ms."""
        return f"{self.root}letters:due"

    @property
    def letters_planned(self) -> str:
        """The last letter that was examined for an automatic replay."""
        return f"{self.root}letters:planned"

    @property
    def letters_expired(self) -> str:
        """The last letter that this round of expiry has looked at."""
        return f"{self.root}letters:expired"

    @property
    def letter_origins(self) -> str:
        """Hash: an imported letter's id in its first Redis -> its id here."""
        return f"{self.root}letters:origins"

    @property
    def letter_audit(self) -> str:
        """Capped stream of what was done with letters: what, who, when, why."""
        return f"{self.root}letters:audit"

    def letter_audit_progress(self, audit_id: str) -> str:
        """Hash of an audit entry's counters: done, dead (of the replayed letters). Kept for a week."""
        return f"{self.root}letters:audit:{audit_id}"

    @property
    def agents(self) -> str:
        """Hash of the agents any worker has ever hosted: name -> description as JSON."""
        return f"{self.root}agents"

    def outcome(self, delivery_id: str) -> str:
        """List of one element: the recorded outcome of a delivery, as JSON."""
        return f"{self.root}outcome:{delivery_id}"

    @property
    def monitors(self) -> str:
        """Hash of all monitors: ref -> owner, target and the rest (see ``monitors/lua/includes/monitors.lua``)."""
        return f"{self.root}monitors"

    @property
    def monitor_counter(self) -> str:
        """Counter behind the refs of monitors."""
        return f"{self.root}monitor"

    @property
    def monitor_owners(self) -> str:
        """Set of the incarnations and sessions that own monitors."""
        return f"{self.root}monitor-owners"

    @property
    def monitor_targets(self) -> str:
        """Set of the incarnations that are monitored."""
        return f"{self.root}monitor-targets"

    def monitors_of(self, owner: str) -> str:
        """Set of an owner's refs."""
        return f"{self.root}monitors-of:{owner}"

    def monitors_on(self, incarnation: str) -> str:
        """Sorted set of the refs that end when this incarnation does, in the order of their owners."""
        return f"{self.root}monitors-on:{incarnation}"

    @property
    def monitor_stats(self) -> str:
        """Hash of counters: monitors created, and why they ended."""
        return f"{self.root}monitor-stats"

    @property
    def monitor_origins(self) -> str:
        """Hash of the places in the code where monitors were made: short name -> a few lines of stack."""
        return f"{self.root}monitor-origins"

    @property
    def monitor_answers(self) -> str:
        """Hash: owner -> its last call that made monitors, and the reply, in case the reply is lost."""
        return f"{self.root}monitor-answers"

    @property
    def down_supervision(self) -> str:
        """Hash: agent -> how its DOWN messages are supervised, as JSON."""
        return f"{self.root}down-supervision"

    def downs(self, session: str) -> str:
        """List of the DOWNs that a session has not read yet."""
        return f"{self.root}downs:{session}"

    def flushed(self, ref: int) -> str:
        """Mark of a flushed monitor, whose DOWN is not delivered; it expires."""
        return f"{self.root}flushed:{ref}"

    @property
    def cancelling(self) -> str:
        """Set of the outcome keys of deliveries that were cancelled while a worker held them, and are pending."""
        return f"{self.root}cancelling"

    def run(self, uid: str) -> str:
        """Hash of a workflow's run; ``includes/runs.lua`` says what lies beside it."""
        return f"{self.root}run:{uid}"

    @property
    def runs(self) -> str:
        """Sorted set of runs: uid -> when it was started, in ms."""
        return f"{self.root}runs"

    @property
    def runs_by_id(self) -> str:
        """Hash: ``workflow_id`` of a run -> its uid."""
        return f"{self.root}runs:by-id"

    @property
    def open_runs(self) -> str:
        """Hash: workflow -> the number of its runs that have not ended."""
        return f"{self.root}runs:open"

    @property
    def paused_workflows(self) -> str:
        """Set of the names of workflows whose runs start paused."""
        return f"{self.root}runs:paused"

    @property
    def busy_runs(self) -> str:
        """Set of the uids of runs with an agenda: work that no script has done yet."""
        return f"{self.root}runs:busy"

    @property
    def on_cancelled(self) -> str:
        """Hash of the agents with an ``on_cancelled``: agent -> level and text of the message that calls it."""
        return f"{self.root}on-cancelled"

    @property
    def unplaced_runs(self) -> str:
        """Sorted set of the uids of runs with steps for which no agent lives: uid -> when they are tried, in ms."""
        return f"{self.root}runs:unplaced"

    @property
    def placed_agents(self) -> str:
        """Set of the agents with which steps were placed that had only said what they need."""
        return f"{self.root}runs:placed"

    def runs_placed(self, agent: str) -> str:
        """Sorted set of the uids of runs with steps that were placed with an agent: uid -> not before when, in ms."""
        return f"{self.root}runs:placed:{agent}"

    def hosts(self, agent: str) -> str:
        """Hash of the incarnations that host an agent: id -> how many messages each runs at once."""
        return f"{self.root}hosts:{agent}"

    @property
    def timers(self) -> str:
        """Sorted set of what is due at a time -> when, in ms.

        ``run:UID:STEP``, ``ask:ID``, ``deferred:QUEUE``, ``ballot:ID``, ``barrier:NAME``…
        """
        return f"{self.root}timers"

    def servers(self, queue: str) -> str:
        """Set of the incarnations that serve a mailbox."""
        return f"{self.root}servers:{queue}"

    def asking(self, incarnation: str) -> str:
        """Hash of an incarnation's handlers that wait in calls: delivery -> who is called, and who calls."""
        return f"{self.root}asking:{incarnation}"

    def ask(self, ask_id: str) -> str:
        """Hash of an open ask (see ``includes/ask_ends.lua``); what ends it deletes it."""
        return f"{self.root}ask:{ask_id}"

    def inbox(self, inbox_id: str) -> str:
        """Stream of the outcomes that an asker waits for; it expires."""
        return f"{self.root}inbox:{inbox_id}"

    def stale_reply(self, digest: str) -> str:
        """The last reply to a request, for calls that may fall back to it; it expires."""
        return f"{self.root}stale-reply:{digest}"

    def bulkhead(self, queue: str) -> str:
        """Sorted set of the requests to a mailbox that are in flight: ask -> when its time is over; it expires."""
        return f"{self.root}bulkhead:{queue}"

    def bulkhead_line(self, queue: str) -> str:
        """Sorted set of the requests that wait for a bulkhead: ask -> time of arrival, in µs since 1970; it expires."""
        return f"{self.root}bulkhead-line:{queue}"

    def bulkhead_tickets(self, queue: str) -> str:
        """Sorted set of the same requests: ask -> time by which it looks again, in ms since 1970; it expires."""
        return f"{self.root}bulkhead-tickets:{queue}"

    def calls(self, queue: str) -> str:
        """Hash of counters of the asks that went to a mailbox: asked, and how they ended."""
        return f"{self.root}calls:{queue}"

    @property
    def timeout_overrides(self) -> str:
        """Hash of overridden timeouts: name -> seconds and end, as JSON; it expires with the last one."""
        return f"{self.root}timeout-overrides"

    @property
    def schedules(self) -> str:
        """Hash of all schedules: id -> definition as JSON."""
        return f"{self.root}schedules"

    @property
    def schedules_due(self) -> str:
        """Sorted set of the schedules that any scheduler may fire: id -> when it is due, in ms."""
        return f"{self.root}schedules:due"

    @property
    def schedules_bound(self) -> str:
        """Sorted set of the schedules that only a scheduler whose code declares them may fire: id -> as above."""
        return f"{self.root}schedules:bound"

    @property
    def schedules_bell(self) -> str:
        """Channel (of PUBLISH) that wakes sleeping schedulers when something earlier may be due."""
        return f"{self.root}schedules:bell"

    @property
    def schedules_broken(self) -> str:
        """Hash of the schedules that are set aside: id -> why, as JSON."""
        return f"{self.root}schedules:broken"

    @property
    def schedule_fires(self) -> str:
        """Capped stream of what became of each due time."""
        return f"{self.root}schedules:fires"

    @property
    def schedule_ledger(self) -> str:
        """Hash of the counters of all fires: due, fired, coalesced, missed, skipped; the last two also by reason."""
        return f"{self.root}schedules:ledger"

    def schedule(self, schedule_id: str) -> str:
        """Hash of one schedule's state (see ``includes/schedule_changes.lua``)."""
        return f"{self.root}schedule:{schedule_id}"

    def schedules_of(self, owner: str) -> str:
        """Set of the schedules of an owner: an app's static ones, or those of an incarnation."""
        return f"{self.root}schedules-of:{owner}"

    @property
    def schedule_owners(self) -> str:
        """Set of the owners of schedules. A schedule without an owner was added at run time."""
        return f"{self.root}schedules:owners"

    @property
    def scheduler(self) -> str:
        """Hash of the schedulers' turn: whose it is and until when; and a mark by which a loss of data is noticed."""
        return f"{self.root}scheduler"

    @property
    def schedulers(self) -> str:
        """Hash of the schedulers that declare static schedules: scheduler -> app."""
        return f"{self.root}schedulers"

    def scheduler_declares(self, scheduler: str) -> str:
        """Set of the static schedules that a living scheduler declares; it expires."""
        return f"{self.root}scheduler-declares:{scheduler}"

    def schedule_request(self, token: str) -> str:
        """Mark of a request (a trigger, a backfill) that was carried out, in case its reply is lost; it expires."""
        return f"{self.root}schedule-request:{token}"

    @property
    def named(self) -> str:
        """Sorted set of the names of leases, elections, semaphores and pools: ``KIND:NAME`` -> its last use, in ms.

        What lies in Redis of each is in ``named_leases.lua``, which makes the names of those keys.
        """
        return f"{self.root}named"

    def named_of(self, owner: str) -> str:
        """Set of what an incarnation or a session holds and waits for: ``TOKEN KIND:NAME``."""
        return f"{self.root}named-of:{owner}"

    def named_election(self, name: str) -> str:
        """Hash of an election: who leads, and the last fencing token."""
        return f"{self.root}named:election:{name}"

    def named_terms(self, name: str) -> str:
        """Stream of an election's terms."""
        return f"{self.root}named-terms:election:{name}"

    def announced_term(self, name: str) -> str:
        """Number of the term of a singleton that its agent was last called with; it expires."""
        return f"{self.root}announced-term:{name}"

    def items(self, distribution: str) -> str:
        """List of a distribution's items that are in no mailbox yet: level and queue, message, …

        It expires until they are accepted. What releases the last of them ends it.
        """
        return f"{self.root}items:{distribution}"

    def distribution(self, distribution: str) -> str:
        """What the acceptance of a distribution's items came to, in case its reply is lost; it expires."""
        return f"{self.root}distribution:{distribution}"

    def distribution_idempotency(self, key: str) -> str:
        """What was accepted first of the distributions under an idempotency key."""
        return f"{self.root}idempotency:distribution:{key}"

    @property
    def coordination_counts(self) -> str:
        """Hash of counters: distributions, and their items."""
        return f"{self.root}coordination-counts"

    @property
    def hierarchies(self) -> str:
        """Hash of hierarchies of agents: name -> what is below each agent, as JSON. Deleted by their users."""
        return f"{self.root}hierarchies"

    def named_line(self, name: str) -> str:
        """Sorted set of those who wait to lead an election: ``PLACE TOKEN`` by their negative score."""
        return f"{self.root}named-line:election:{name}"

    def named_waiting(self, name: str) -> str:
        """Hash of those who wait to lead an election: token -> ticket as JSON."""
        return f"{self.root}named-waiting:election:{name}"

    def wake(self, token: str) -> str:
        """List with what the request with this token was granted, which wakes it; it expires."""
        return f"{self.root}wake:{token}"

    def ballot(self, ballot_id: str) -> str:
        """Hash of a ballot, which expires a week after the decision; see ``includes/ballot_votes.lua``."""
        return f"{self.root}ballot:{ballot_id}"

    @property
    def ballots(self) -> str:
        """Sorted set of ballots: id -> when it was proposed, in ms; the next ones take old ones off."""
        return f"{self.root}ballots"

    def ballot_voters(self, ballot_id: str) -> str:
        """Hash of a ballot's voters: weight, and where the decision goes; it expires with the ballot."""
        return f"{self.root}ballot-voters:{ballot_id}"

    def ballot_copies(self, ballot_id: str) -> str:
        """Hash: voter -> the delivery of its copy of the proposal; it expires with the ballot."""
        return f"{self.root}ballot-copies:{ballot_id}"

    def ballot_votes(self, ballot_id: str) -> str:
        """Hash: voter -> its vote, or why there is none, as JSON; it expires with the ballot."""
        return f"{self.root}ballot-votes:{ballot_id}"

    def ballot_decision(self, ballot_id: str) -> str:
        """List of one element: a ballot's decision as JSON; it expires with the ballot."""
        return f"{self.root}ballot-decision:{ballot_id}"

    def ballot_undelivered(self, ballot_id: str) -> str:
        """List of the voters to whom the decision is not sent yet; it expires with the ballot."""
        return f"{self.root}ballot-undelivered:{ballot_id}"

    @property
    def barriers(self) -> str:
        """Sorted set of the names of barriers: name -> its last use, in ms.

        What lies in Redis of each is in ``barriers.lua``, which makes the names of those keys.
        """
        return f"{self.root}barriers"

    def barriers_of(self, owner: str) -> str:
        """Set of the names of the barriers at which an incarnation or a session waits."""
        return f"{self.root}barriers-of:{owner}"

    def barrier_call(self, caller: str) -> str:
        """Where a caller has arrived last: generation, token and entry; it expires."""
        return f"{self.root}barrier-call:{caller}"

    def run_times(self, day: int, task: str) -> str:
        """Hash of how long a task's attempts took on a day since 1970: bucket -> attempts; it expires."""
        return f"{self.root}durations:{day}:{task}"

    def outcome_hooks(self, delivery_id: str) -> str:
        """Hash of the outcome hooks of a delivery; scripts get the name by ``hooks_of``."""
        return f"{self.root}hooks:{delivery_id}"


def indexed(value: str) -> str:
    """A dead letter's value as the index names it: a long one by its SHA-1, so that no key gets long."""
    raw = value.encode("utf-8", "surrogatepass")
    if len(raw) <= _LONGEST_NAME and not value.startswith(_SUM):
        return value
    return f"{_SUM}{hashlib.sha1(raw, usedforsecurity=False).hexdigest()}"
