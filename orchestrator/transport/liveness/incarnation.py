"""The incarnation: one run of one process that holds messages, with its lease and the thread of its heartbeat.

It outlives the kombu connection. When Celery reconnects, messages that are being executed stay with this process, and
their acknowledgements count; only messages that were not started are requeued.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import RedisError

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.keys import GROUP, Keys
from orchestrator.core.log import get_logger
from orchestrator.core.policies.timeout_overrides import OverrideTable
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.supervisor import planned_stops
from orchestrator.telemetry import emit, events
from orchestrator.transport.endings.delivery_thread import EndingsDelivery
from orchestrator.transport.endings.stream import Endings
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.transport.liveness.consumer_absence import ConsumerAbsence
from orchestrator.transport.liveness.fallback_sweeper import FallbackSweeper
from orchestrator.transport.liveness.heartbeat import Heartbeat, HeartbeatReply
from orchestrator.transport.liveness.held_claims import HeldClaims
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.liveness.run_times import RunTimes
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.command_connection import CommandConnection, Pool
from orchestrator.transport.redis.dataset import report_loss

logger = get_logger(__name__)

#: Longest time that a stopping process waits for its last acknowledgements to be confirmed, and for its thread to end.
_LEAVE_S = 5.0

#: How long an incarnation without a consumer waits for another one.
_LINGER_S = 5.0

#: The same after Redis was unreachable. Celery pauses for up to 32 s between two attempts to connect; an incarnation
#: that left before the next one would be recorded as dead although nothing has died.
_LINGER_AFTER_OUTAGE_S = 40.0

#: Characters of an error that are kept with a death.
_LONGEST_ERROR = 500

#: How often the claims in Redis are compared with those held here.
_COMPARE_EVERY_S = 5.0

#: Pause before the next heartbeat after one that failed or went over a new connection.
_AGAIN_AFTER_S = 0.1

#: How long a disproved death is remembered; a message may come back that late.
_REMEMBERED_DAYS = 30


class ConsumingChannel(Protocol):
    """A channel that claims messages for an incarnation."""

    def on_fenced(self) -> None: ...

    def wants_messages(self) -> bool: ...

    def expecting_s(self) -> float | None: ...


class Incarnation:
    """This process as the holder of one broker's messages."""

    def __init__(self, pool: Pool, keys: Keys, options: Options, levels: Sequence[str], broker: Broker) -> None:
        self.keys = keys
        self.options = options
        self.fenced = False
        self.left = False
        self.queues: set[str] = set()
        self._pool = pool
        self._broker = broker
        self._levels = tuple(levels)
        self._channels: set[ConsumingChannel] = set()
        #: Guards the connection of the heartbeat.
        self._lock = threading.RLock()
        self._commands = CommandConnection(pool)
        self._heartbeat = Heartbeat(self._commands, keys, options, broker)
        self.run_times = RunTimes(keys)
        self._idle_since = monotonic()
        self._linger_until = float("-inf")
        self._fenced_at: float | None = None
        self._end_recorded = False
        self._absence = ConsumerAbsence(self._commands)
        self._compared_at = monotonic()
        self._stop = threading.Event()
        self._sweeper = Sweeper(CommandConnection(pool), keys, options, levels)
        self.token = self._heartbeat.register()
        self.id = self._heartbeat.incarnation
        logger.info("incarnation %s registered", self.id)
        emit(events.AGENT_UP, incarnation=self.id)
        self._endings = EndingsDelivery(Endings(CommandConnection(pool), keys), Endings(CommandConnection(pool), keys))
        self._fallback_sweeper = FallbackSweeper(self._sweeper, options, self.id, self.queues)
        self.ack_pipeline = AckPipeline(
            pool,
            flush_s=options.ack_flush_s,
            flush_count=int(options.ack_flush_count),
            group=GROUP,
            keys=keys,
            levels=tuple(levels),
        )
        self.claims = HeldClaims(self.id, keys, options, self._commands, self._lock, self.ack_pipeline)
        self._thread = threading.Thread(target=self._live, name="orchestrator-heartbeat", daemon=True)
        self._thread.start()
        HEALTH_REPORTER.start(options.node_name or socket.gethostname())
        HEALTH_REPORTER.watch(self.vital_signs)
        # A forked child that runs atexit functions must not end its parent's incarnation.
        self._pid = os.getpid()
        atexit.register(self.leave_at_exit)

    # -- joining and leaving

    def attach(self, channel: ConsumingChannel, queue: str) -> None:
        """``channel`` is about to claim from ``queue``; a sweep after a death finds what is claimed there.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        with self._lock:
            self._channels.add(channel)
            if queue not in self.queues:
                self.queues.add(queue)
                # Before the first claim: the sweep looks for our messages in the queues that the record names.
                try:
                    self._beat()
                except BaseException:
                    self.queues.discard(queue)
                    raise

    def detach(self, channel: ConsumingChannel) -> None:
        """``channel`` claims no more.

        The incarnation lives on for a while: after a lost connection Celery comes back with a new channel. If none
        comes, or the process ends, it leaves.
        """
        with self._lock:
            self._channels.discard(channel)
            self._idle_since = monotonic()
            if not self.left:
                # atexit runs the last function registered first. Celery's restart by SIGHUP registers an exec there,
                # after which no other function would run.
                atexit.unregister(self.leave_at_exit)
                atexit.register(self.leave_at_exit)

    def leave(self, reason: DeathReason = DeathReason.DRAINED, error: str = "") -> None:
        """End the incarnation: confirm what is settled, requeue what is not.

        It counts against no message, unless an error ended the process.
        """
        with self._lock:
            if self.left:
                return
            self.left = True
        self._stop.set()
        self._endings.close()
        atexit.unregister(self.leave_at_exit)
        self.ack_pipeline.close(wait_s=_LEAVE_S)
        if not self.fenced:
            self._write_run_times(at_once=True)
            try:
                self._sweeper.retire(self.id, reason, error)
            except (RedisError, OSError) as away:
                logger.warning("could not deregister incarnation %s; its lease will expire: %s", self.id, away)
        self._heartbeat.stop_heart()
        if threading.current_thread() is not self._thread:
            # The thread may be in the middle of a heartbeat on these connections.
            self._thread.join(timeout=_LEAVE_S)
        self._pool.disconnect()

    def leave_at_exit(self) -> None:
        """Leave, with the reason why the process ends."""
        if self._pid != os.getpid():
            return
        reason, error = PROCESS_INCARNATIONS.ending
        uncaught = getattr(sys, "last_value", None)
        if reason is DeathReason.DRAINED and isinstance(uncaught, Exception):
            reason, error = DeathReason.CRASHED, f"{type(uncaught).__name__}: {uncaught}"
        if reason is DeathReason.DRAINED and planned_stops.is_announced():
            reason = DeathReason.DEPLOYED
        self.leave(reason, error[:_LONGEST_ERROR])

    # -- holding messages

    def polled(self) -> None:
        """The broker was asked for messages just now."""
        self._heartbeat.polled_at = monotonic()

    def requeue_interrupted(self, tag: str, end: ChildEnd) -> None:
        """Return a message whose pool process ended while it ran."""
        self.claims.requeue_interrupted(tag, end, self._heartbeat.child_died)

    def requeue_unreceived(self, idle_s: float, *, reader: ConsumingChannel | None = None) -> None:
        """Requeue claims that have been idle for ``idle_s`` and never arrived here: the replies were lost.

        ``reader`` expects no reply any more. What another channel is still to read is not lost.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """

        def expecting() -> list[float]:
            waits_s = (channel.expecting_s() for channel in tuple(self._channels) if channel is not reader)
            return [wait_s for wait_s in waits_s if wait_s is not None]

        self.claims.requeue_unreceived(self.queues, self._levels, idle_s, expecting)

    @property
    def has_cancels(self) -> bool:
        """Whether messages were cancelled while workers had them, as of the last heartbeat."""
        return self._heartbeat.has_cancels

    @property
    def overrides(self) -> OverrideTable:
        """The overrides of timeouts, as of the last heartbeat."""
        return self._heartbeat.overrides.table

    # -- living

    def vital_signs(self) -> dict[str, Any]:
        """Names and values for ``orchestrator health``."""
        if self.left:
            return self._absence.vital_signs()
        fenced_s = None if self._fenced_at is None else monotonic() - self._fenced_at
        return {**self._heartbeat.vital_signs(), "fenced_s": fenced_s}

    def _should_poll(self) -> bool:
        """Whether this process has a free slot, and so ought to be asking for a message."""
        if any(claim.started_at is not None for claim in self.claims.listed()):
            return False
        # Celery's own record, where there is Celery, has the tasks that are acknowledged before they run, too.
        state = sys.modules.get("celery.worker.state")
        if state is not None and state.active_requests:
            return False
        return any(channel.wants_messages() for channel in tuple(self._channels))

    def _beat(self) -> HeartbeatReply | None:
        """Send one heartbeat; ``None`` if this incarnation has no lease any more."""
        with self._lock:
            reply = self._heartbeat.beat(self.claims.listed(), self.queues, self._should_poll)
        if reply is None and not self.fenced and not self.left:
            self._on_fenced()
        return reply

    def _on_fenced(self) -> None:
        self.fenced = True
        self._heartbeat.stop_heart()
        self._fenced_at = monotonic()
        loss = self._heartbeat.loss
        if loss is None:
            logger.error(
                "incarnation %s fenced: it was declared dead, but its process is alive and registers a new incarnation",
                self.id,
            )
            emit(events.AGENT_FENCED, incarnation=self.id)
        else:
            report_loss(loss, self._heartbeat.lease.dataset, self._broker.address, self.id)
        for channel in tuple(self._channels):
            channel.on_fenced()
        try:
            self._record_end()
        except (RedisError, OSError) as error:
            logger.debug("record that incarnation %s was alive not written, will be retried: %s", self.id, error)

    def _record_end(self) -> None:
        """Record that the process is alive, so that its recorded death counts against no message."""
        reason = DeathReason.FENCED if self._heartbeat.loss is None else DeathReason.DATASET_LOST
        fields = {"incarnation": self.id, "reason": reason.value, "by": self.id}
        fields |= {"name": self.options.node_name, "host": socket.gethostname(), "pid": str(os.getpid())}
        fields["agents"] = self._heartbeat.sent_field("agents")
        self._commands.run(*commands.disprove_death(self.keys, self.id, fields, days=_REMEMBERED_DAYS))
        self._end_recorded = True

    def _is_deserted(self) -> bool:
        if self._channels or len(self.claims):
            return False
        return monotonic() > max(self._idle_since + _LINGER_S, self._linger_until)

    def _pause_s(self, is_regular: bool) -> float:
        return self._fallback_sweeper.next_in_s(self.options.heartbeat_s) if is_regular else _AGAIN_AFTER_S

    def _live(self) -> None:
        lease = self._heartbeat.lease
        while not self._stop.wait(self._pause_s(lease.is_regular)):
            if lease.away_since is None and self._is_deserted():
                self.leave()
                self._absence.measure(self.vital_signs)
                self._pool.disconnect()
                return
            if self.fenced and self._end_recorded:
                continue
            try:
                self._beat_or_record_failure()
            except Exception:
                # Without a heartbeat this worker would be declared dead; no error may end it.
                logger.exception("heartbeat of incarnation %s failed", self.id)

    def _beat_or_record_failure(self) -> None:
        try:
            if self.fenced:
                self._record_end()
            else:
                self._beat_and_check()
        except (RedisError, OSError) as error:
            with self._lock:
                self._heartbeat.lease.record_failure(error)

    def _beat_and_check(self) -> None:
        reply = self._beat()
        if self._heartbeat.lease.record_reply():
            self._linger_until = monotonic() + _LINGER_AFTER_OUTAGE_S
        if monotonic() - self._compared_at > _COMPARE_EVERY_S:
            self._compared_at = monotonic()
            self.requeue_unreceived(2 * _COMPARE_EVERY_S)
        if reply is None:
            return
        if reply.has_endings:
            self._endings.wake()
        self.claims.end_abandoned()
        self._write_run_times()
        self._fallback_sweeper.after_heartbeat(reply)

    def _write_run_times(self, *, at_once: bool = False) -> None:
        try:
            with self._lock:
                self.run_times.after_heartbeat(self._commands.run, at_once=at_once)
        except (RedisError, OSError) as error:
            # Redis is full, or away. The heartbeat, which may be written in the first case, says which.
            logger.debug("run times of incarnation %s not written, will be retried: %s", self.id, error)
