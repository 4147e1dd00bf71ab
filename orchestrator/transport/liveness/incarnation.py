"""The incarnation: one run of one process that holds messages, with its lease and its outbox.

It outlives the kombu connection. When Celery reconnects, messages that are being executed stay this process',
and their acknowledgements count; only what was not started goes back.

The mark of execution is the delivery counter in the stream's pending list: 0 while it is claimed ahead of a free slot
(see claim_buffer.py), 1 when claimed or delivered, 2 once a pool has started on it, 3 if it has the process to itself
(see solitude.py). A death counts against the entries at 2 and 3 only.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.death import DeathReason
from orchestrator.core.keys import GROUP, Keys
from orchestrator.core.log import get_logger
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.telemetry import emit, events
from orchestrator.transport.endings.delivery_thread import EndingsDelivery
from orchestrator.transport.endings.stream import Endings
from orchestrator.transport.forgotten import is_forgotten
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.fallback_sweeper import FallbackSweeper
from orchestrator.transport.liveness.heartbeat import Heartbeat, HeartbeatReply
from orchestrator.transport.liveness.isolation import ALONE, DELIVERED, RUNNING, PoisonIsolation
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.options import Options
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.dataset import report_loss

logger = get_logger(__name__)

#: Longest time a stopping process waits for its last acknowledgements to be confirmed.
_FAREWELL_S = 5.0

#: Longest time that giving back waits to be confirmed.
_CONFIRM_S = 0.5

#: Bytes of the messages that one script gives back (as MOST_BYTES in mailbox_entry.lua).
_GIVEBACK_BYTES = 1 << 20

#: How long an incarnation without a consumer waits for another one.
_LINGER_S = 5.0

#: The same after Redis was away. Celery pauses between two attempts to connect, 32 s at most; whoever left before
#: the next one would be dead on the record although nothing has died.
_LINGER_AFTER_OUTAGE_S = 40.0

#: Characters of an error that are kept with a death.
_LONGEST_ERROR = 500

#: Longest time that looking for unread answers takes, or else it says nothing.
_ANSWERED_WITHIN_S = 0.5

#: How often a worker without a consumer looks whether it might have one.
_MISS_EVERY_S = 1.0

#: How long a message may be unsettled after its execution is over; settling takes milliseconds.
_ABANDONED_AFTER_S = 2.0

#: How often Redis' idea of what we hold is compared with ours.
_COMPARE_EVERY_S = 5.0


#: How long a death that was disproved is remembered; a message may come back that late.
_REMEMBERED_DAYS = 30


class ConsumingChannel(Protocol):
    """A channel that consumes on behalf of a holder."""

    def on_fenced(self) -> None: ...

    def wants_messages(self) -> bool: ...

    def expecting_s(self) -> float | None: ...


class Incarnation:
    """This process as the holder of messages of one broker."""

    def __init__(self, pool: Pool, keys: Keys, options: Options, steps: Sequence[str], broker: Broker) -> None:
        self.keys = keys
        self.options = options
        self.fenced = False
        self.left = False
        self.held: dict[str, Claim] = {}
        self.queues: set[str] = set()
        self.isolation = PoisonIsolation(self.held, wait_s=options.isolation_wait_s, run_s=options.isolation_run_s)
        self._pool = pool
        self._broker = broker
        self._steps = tuple(steps)
        self._users: set[ConsumingChannel] = set()
        self._lock = threading.RLock()
        self._commands = CommandConnection(pool)
        self._heartbeat = Heartbeat(self._commands, keys, options, broker)
        self._idle_since = monotonic()
        self._linger_until = float("-inf")
        self._fenced_at: float | None = None
        self._end_recorded = False
        #: Since when this process has had no consumer, although it should have and Redis answers.
        self._absent_since: float | None = None
        self._compared_at = monotonic()
        self._stop = threading.Event()
        self._sweeper = Sweeper(CommandConnection(pool), keys, options, steps)
        self.token = self._heartbeat.register()
        self.id = self._heartbeat.incarnation
        logger.info("incarnation %s", self.id)
        emit(events.AGENT_UP, incarnation=self.id)
        self._endings = EndingsDelivery(Endings(CommandConnection(pool), keys), Endings(CommandConnection(pool), keys))
        self._fallback_sweeper = FallbackSweeper(self._sweeper, options, self.id)
        self.ack_pipeline = AckPipeline(
            pool, flush_s=options.ack_flush_s, flush_count=int(options.ack_flush_count), group=GROUP
        )
        self._thread = threading.Thread(target=self._live, name="orchestrator-heartbeat", daemon=True)
        self._thread.start()
        HEALTH_REPORTER.start(options.node_name or socket.gethostname())
        HEALTH_REPORTER.watch(self.vital_signs)
        # A fork that ends as a whole interpreter does would take its parent's leave.
        self._pid = os.getpid()
        atexit.register(self.leave_at_exit)

    # -- joining and leaving

    def attach(self, user: ConsumingChannel, queue: str) -> None:
        """``user`` is about to claim from ``queue``; a death from now on finds what is claimed there."""
        with self._lock:
            self._users.add(user)
            if queue not in self.queues:
                self.queues.add(queue)
                # Before the first claim: the sweep looks for our messages in the queues named here.
                try:
                    self._beat()
                except BaseException:
                    self.queues.discard(queue)
                    raise

    def detach(self, user: ConsumingChannel) -> None:
        """``user`` claims no more.

        The incarnation lives on for a while: after a lost connection Celery comes back with a new channel. If
        nobody does, or the process ends, it leaves.
        """
        with self._lock:
            self._users.discard(user)
            self._idle_since = monotonic()
            if not self.left:
                # atexit runs the last function registered first. Celery's restart by SIGHUP registers an exec there,
                # after which no other function would run.
                atexit.unregister(self.leave_at_exit)
                atexit.register(self.leave_at_exit)

    def leave(self, reason: DeathReason = DeathReason.DRAINED, error: str = "") -> None:
        """End the incarnation: confirm what is done, give back what is not.

        It counts against no message, unless an error ended the process.
        """
        with self._lock:
            if self.left:
                return
            self.left = True
        self._stop.set()
        self._endings.close()
        atexit.unregister(self.leave_at_exit)
        self.ack_pipeline.close(wait_s=_FAREWELL_S)
        if not self.fenced:
            try:
                self._sweeper.retire(self.id, reason, error)
            except (RedisError, OSError) as away:
                logger.warning("Could not deregister %s (%s); its lease will expire", self.id, away)
        self._heartbeat.part()
        if threading.current_thread() is not self._thread:
            # The thread may be in the middle of a heartbeat on these connections.
            self._thread.join(timeout=_FAREWELL_S)
        self._pool.disconnect()

    def leave_at_exit(self) -> None:
        """Leave, for the reason for which the process ends."""
        if self._pid != os.getpid():
            return
        reason, error = PROCESS_INCARNATIONS.ending
        uncaught = getattr(sys, "last_value", None)
        if reason is DeathReason.DRAINED and isinstance(uncaught, Exception):
            reason, error = DeathReason.CRASHED, f"{type(uncaught).__name__}: {uncaught}"
        self.leave(reason, error[:_LONGEST_ERROR])

    # -- holding messages

    def claimed(self, claim: Claim) -> None:
        """Redis has given us a message."""
        self.held[claim.tag] = claim

    def polled(self) -> None:
        """The broker was asked for messages just now."""
        self._heartbeat.polled_at = monotonic()

    def delivered_ahead(self, claim: Claim) -> None:
        """A message that was claimed ahead is about to be delivered: a death from now on may be its doing."""
        self.ack_pipeline.command(*self._marking(claim, DELIVERED))

    def started(self, tag: str) -> None:
        """A pool starts on this message: from now on a death counts against it."""
        claim = self.held.get(tag)
        if claim is None:
            return
        claim.started_at = monotonic()
        if not claim.mark:
            self.ack_pipeline.command(*self._marking(claim, RUNNING))

    def _marking(self, claim: Claim, mark: int) -> tuple[Any, ...]:
        return ("XCLAIM", claim.stream, GROUP, self.id, 0, claim.entry, "RETRYCOUNT", mark, "JUSTID")

    def give_last_chance(self, claim: Claim) -> bool:
        """Whether this message may be delivered now. If so it is marked: a death counts against it from here on.

        Raises:
            redis.exceptions.RedisError: Redis is away; the message must not be delivered.
        """
        mark = self.isolation.enter(claim.tag)
        if not mark:
            return False
        try:
            with self._lock:
                marked = self._commands.call(*self._marking(claim, mark))
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                # A server that refuses for a while is one to come back to.
                raise RedisConnectionError(str(error)) from error
            marked = []
        if not marked:
            # We were declared dead, and it was handed on; or somebody deleted its stream.
            self.take(claim.tag)
            return False
        claim.mark, claim.ahead = mark, False
        if mark != ALONE:
            logger.warning(
                "%s: message %s in %s runs beside others although its workers keep dying; waited %g s",
                self.id, claim.entry, claim.queue, self.options.isolation_wait_s,
            )  # fmt: skip
        return True

    def may_claim(self) -> bool:
        """Whether nobody has, or waits for, this process to itself."""
        return self.isolation.leave(self._not_alone_any_more)

    def _not_alone_any_more(self, tag: str) -> None:
        claim = self.held.get(tag)
        if claim is not None:
            claim.mark = RUNNING
            self.ack_pipeline.command(*self._marking(claim, RUNNING))

    def take(self, tag: str) -> Claim | None:
        """Let go of a message in order to settle it; ``None`` if it was settled before."""
        return self.held.pop(tag, None)

    def settle(self, tag: str, outcome: str = "handled") -> None:
        """End a delivery; only the count remains."""
        claim = self.take(tag)
        if claim is not None:
            self.ack_pipeline.ack(claim.stream, self.keys.ledger(claim.queue), outcome, claim.entry)

    def requeue(self, tags: Iterable[str]) -> None:
        """Return messages to the head of their queues."""
        by_stream: dict[tuple[str, str, str], list[Claim]] = {}
        for tag in tags:
            claim = self.take(tag)
            if claim is not None:
                how_it_ran = "undelivered" if claim.ahead else "0"
                by_stream.setdefault((claim.stream, claim.queue, how_it_ran), []).append(claim)
        for (stream, queue, how_it_ran), claims in by_stream.items():
            args = self._giveback_args(queue, how_it_ran=how_it_ran)
            for entries in _batches(claims):
                self.ack_pipeline.post("requeue_held", [stream], [*args, *entries])
        if by_stream:
            # The next claim goes over another connection, and would overtake what comes back first.
            self.ack_pipeline.flush(wait_s=_CONFIRM_S)

    def give_back_interrupted(self, tag: str, end: ChildEnd) -> None:
        """Return a message whose pool process ended while it ran.

        A stop signal while the worker goes on may be the task's own (``os.kill(os.getpid(), SIGTERM)``) or somebody
        else's. Such an end is unattributed, as that of a worker which died before the message was seen to start:
        after two, the message runs alone (see solitude.py), and then an end counts against it.
        """
        claim = self.take(tag)
        if claim is None:
            return
        alone = claim.mark == ALONE
        if end is ChildEnd.DIED or (end is ChildEnd.STOP_SIGNAL and alone):
            args = self._giveback_args(claim.queue, self._heartbeat.child_died(), "1" if alone else "0")
        else:
            how_it_ran = "stopping" if end is ChildEnd.STOPPING else "unattributed"
            args = self._giveback_args(claim.queue, how_it_ran=how_it_ran)
        self.ack_pipeline.post("requeue_held", [claim.stream], [*args, claim.entry])
        self.ack_pipeline.flush(wait_s=_CONFIRM_S)

    def take_back_unanswered(self, idle_s: float, *, reader: ConsumingChannel | None = None) -> None:
        """Give back what Redis says we hold and we know nothing of: the answer to a claim that never arrived.

        ``reader`` says that it expects no answer any more. What any other is still to read, however late it comes to
        that, is not lost: Redis gave it out after it had been asked.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        streams = [self.keys.step(queue, step) for queue in self.queues for step in self._steps]
        asked_at = monotonic()
        expecting = [s for user in tuple(self._users) if user is not reader and (s := user.expecting_s()) is not None]
        if expecting:
            idle_s = max(idle_s, max(expecting) + _ANSWERED_WITHIN_S)
        with self._lock:
            answer = self._commands.run("unleased_claims", streams, [GROUP, self.id, to_ms(idle_s)])
        if expecting and monotonic() - asked_at > _ANSWERED_WITHIN_S:
            # It may have been asked of Redis later than that; another time.
            return
        unknown = [
            (streams[index - 1], entry.decode())
            for index, entry in zip(answer[::2], answer[1::2], strict=True)
            if f"{entry.decode()}@{streams[index - 1]}" not in self.held
        ]
        # What was settled a moment ago is not in `held` either; once that is confirmed, it is not pending any more.
        if not unknown or not self.ack_pipeline.flush(wait_s=_FAREWELL_S):
            return
        for stream, entry in unknown:
            queue = stream.removeprefix(f"{self.keys.root}q:").split(":", 1)[1]
            with self._lock:
                (said,) = self._commands.run("requeue_held", [stream], [*self._giveback_args(queue), entry])
            if said == b"returned":
                logger.warning("%s: a claim was never answered; message %s goes back", self.id, entry)

    def _giveback_args(self, queue: str, death: str = "", how_it_ran: str = "0") -> list[Any]:
        o, told = self.options, to_ms(self.options.outcome_ttl_s)
        return [self.keys.root, queue, GROUP, int(o.max_deaths), told, death, self.id, how_it_ran]

    # -- living

    def vital_signs(self) -> dict[str, Any]:
        """What ``orchestrator health`` is told."""
        if self.left:
            since = self._absent_since
            return {} if since is None else {"absent_s": monotonic() - since}
        fenced_s = None if self._fenced_at is None else monotonic() - self._fenced_at
        return {**self._heartbeat.vital_signs(), "fenced_s": fenced_s}

    def _should_poll(self) -> bool:
        """Whether this process has a free hand for a message, and so ought to be asking for one."""
        if any(claim.started_at is not None for claim in list(self.held.values())):
            return False
        # Celery's own record, where there is Celery: of tasks that are acknowledged before they run, too.
        state = sys.modules.get("celery.worker.state")
        if state is not None and state.active_requests:
            return False
        return any(user.wants_messages() for user in tuple(self._users))

    def _beat(self) -> HeartbeatReply | None:
        """One heartbeat; ``None`` once this incarnation was declared dead."""
        with self._lock:
            answer = self._heartbeat.beat(list(self.held.values()), self.queues, self._should_poll)
        if answer is None and not self.fenced and not self.left:
            self._on_fenced()
        return answer

    def _on_fenced(self) -> None:
        self.fenced = True
        self._heartbeat.part()
        self._fenced_at = monotonic()
        loss = self._heartbeat.loss
        if loss is None:
            logger.error(
                "%s was declared dead while it was not; it stops, and this process registers a new one", self.id
            )
            emit(events.AGENT_FENCED, incarnation=self.id)
        else:
            report_loss(loss, self._heartbeat.dataset, self._broker.address, self.id)
        for user in tuple(self._users):
            user.on_fenced()
        try:
            self._record_end()
        except (RedisError, OSError) as error:
            logger.debug("Could not record that %s is alive; will retry (%s)", self.id, error)

    def _record_end(self) -> None:
        """Record that the process is alive, so that its recorded death counts against no message."""
        reason = DeathReason.FENCED if self._heartbeat.loss is None else DeathReason.DATASET_LOST
        fields = {"incarnation": self.id, "reason": reason.value, "by": self.id}
        fields |= {"name": self.options.node_name, "host": socket.gethostname(), "pid": str(os.getpid())}
        fields["agents"] = self._heartbeat.said("agents")
        flat = [part for pair in fields.items() for part in pair]
        self._commands.run(
            "disprove_death", [self.keys.disproved, self.keys.deaths], [self.id, _REMEMBERED_DAYS, *flat]
        )
        self._end_recorded = True

    def _miss_the_consumer(self) -> None:
        """Having left, note how long a worker goes without the next incarnation; a time in which Redis does not answer
        proves nothing, nor one in which there is nothing to consume from."""
        if not HEALTH_REPORTER.is_worker():
            return
        self._absent_since = monotonic()
        never = threading.Event()
        while HEALTH_REPORTER.watches(self.vital_signs) and not never.wait(_MISS_EVERY_S):
            if not HEALTH_REPORTER.should_consume() or not self._is_answered():
                self._absent_since = monotonic()
        self._commands.drop()
        self._pool.disconnect()

    def _is_answered(self) -> bool:
        try:
            self._commands.call("PING")
        except (RedisError, OSError):
            self._commands.drop()
            return False
        return True

    def _end_abandoned(self) -> None:
        """Compare what is held with what the pool runs: nothing is held for which no code runs."""
        now = monotonic()
        for claim in list(self.held.values()):
            if not _is_over(claim):
                claim.over_since = None
            elif claim.over_since is None:
                claim.over_since = now
            elif now - claim.over_since > _ABANDONED_AFTER_S:
                if claim.run is not None:
                    claim.run.abandon()
                elif claim.reserved is not None and (request := claim.reserved()) is not None:
                    request.forgotten()

    def _is_deserted(self) -> bool:
        now = monotonic()
        return not self._users and not self.held and now > max(self._idle_since + _LINGER_S, self._linger_until)

    def _live(self) -> None:
        while not self._stop.wait(self.options.heartbeat_s if self._heartbeat.is_regular else 0.1):
            if self._heartbeat.away_since is None and self._is_deserted():
                self.leave()
                self._miss_the_consumer()
                return
            if self.fenced and self._end_recorded:
                continue
            try:
                if self.fenced:
                    self._record_end()
                    continue
                answer = self._beat()
                if self._heartbeat.answered_again():
                    self._linger_until = monotonic() + _LINGER_AFTER_OUTAGE_S
                if monotonic() - self._compared_at > _COMPARE_EVERY_S:
                    self._compared_at = monotonic()
                    self.take_back_unanswered(2 * _COMPARE_EVERY_S)
                if answer is not None:
                    if answer.has_endings:
                        self._endings.wake()
                    self._end_abandoned()
                    self._fallback_sweeper.after_heartbeat(answer)
            except (RedisError, OSError) as error:
                with self._lock:
                    self._heartbeat.unanswered(error)
            except Exception:
                # Without a heartbeat this worker would be declared dead; no error may end it.
                logger.exception("heartbeat failed")


def _is_over(claim: Claim) -> bool:
    """Whether no code runs for this message, or will."""
    if claim.run is not None:
        return claim.run.is_over()
    return claim.reserved is not None and is_forgotten(claim.reserved)


def _batches(claims: Iterable[Claim]) -> Iterator[list[str]]:
    """The entries of claims, as many together as one script may deal with."""
    batch: list[str] = []
    size = 0
    for claim in claims:
        if batch and size + claim.size > _GIVEBACK_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(claim.entry)
        size += claim.size
    if batch:
        yield batch
