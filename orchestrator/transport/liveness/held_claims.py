"""The messages that one incarnation has claimed and not settled: marks, settling, requeueing.

The mark of execution is the delivery counter in the stream's pending list: 0 while a message is claimed ahead of a free
slot (see claim_buffer.py), 1 when it is claimed or delivered, 2 once a pool has started on it, 3 if it has the process
to itself (see isolation.py). A death counts only against the entries at 2 and 3.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.death import EXITED, DeathReason
from orchestrator.core.keys import GROUP, Keys
from orchestrator.core.log import get_logger
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.forgotten import is_forgotten
from orchestrator.transport.liveness.isolation import ALONE, DELIVERED, RUNNING, PoisonIsolation
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import Call

logger = get_logger(__name__)

#: Longest wait for a requeue or a mark to be confirmed, and for settlements before the comparison with Redis.
_CONFIRM_S = 0.5
_CONFIRM_SETTLED_S = 5.0

#: Bytes of the messages that one script requeues (as MOST_BYTES in mailbox_entry.lua).
_REQUEUE_BYTES = 1 << 20

#: A comparison with Redis that takes longer than this is not used.
_COMPARE_WITHIN_S = 0.5

#: How long a message may be unsettled after its execution is over; settling takes milliseconds.
_ABANDONED_AFTER_S = 2.0


class HeldClaims:
    """The claims of one incarnation, by delivery tag. Several threads use it; a claim is taken out once."""

    def __init__(
        self,
        incarnation: str,
        keys: Keys,
        options: Options,
        connection: CommandConnection,
        lock: threading.RLock,
        ack_pipeline: AckPipeline,
    ) -> None:
        """``lock`` guards ``connection``, which the heartbeat uses as well."""
        self._incarnation = incarnation
        self._keys = keys
        self._options = options
        self._commands = connection
        self._lock = lock
        self._ack_pipeline = ack_pipeline
        self._by_tag: dict[str, Claim] = {}
        self.isolation = PoisonIsolation(self._by_tag, wait_s=options.isolation_wait_s, run_s=options.isolation_run_s)

    def __len__(self) -> int:
        return len(self._by_tag)

    def __contains__(self, tag: str) -> bool:
        return tag in self._by_tag

    def get(self, tag: str) -> Claim | None:
        """The claim with this tag; ``None`` if the message was settled."""
        return self._by_tag.get(tag)

    def listed(self) -> list[Claim]:
        """All claims, as they are now."""
        return list(self._by_tag.values())

    def add(self, claim: Claim) -> None:
        """Redis has given this process a message."""
        self._by_tag[claim.tag] = claim

    def take(self, tag: str) -> Claim | None:
        """Take a claim out in order to settle its message; ``None`` if it was settled before."""
        return self._by_tag.pop(tag, None)

    # -- marks

    def mark_delivered(self, claim: Claim) -> bool:
        """A message that was claimed ahead is about to be delivered: it is a suspect in a death from now on.

        Returns whether the mark has left this process; waits for that if another thread waits for a slow Redis.
        """
        pipeline = self._ack_pipeline
        return pipeline.command(*self._marking(claim, DELIVERED)) or pipeline.flush(wait_s=_CONFIRM_S)

    def confirm_delivered(self, claim: Claim) -> bool:
        """As :meth:`mark_delivered`; returns whether Redis has confirmed it, and the message is still held."""
        replies: list[Any] = []
        self._ack_pipeline.command(*self._marking(claim, DELIVERED), on_reply=replies.append)
        return self._ack_pipeline.flush(wait_s=_CONFIRM_S) and any(replies)

    def mark_started(self, tag: str) -> None:
        """A pool starts on this message: a death counts against it from now on."""
        claim = self._by_tag.get(tag)
        if claim is None:
            return
        claim.started_at = monotonic()
        if not claim.mark:
            self._ack_pipeline.command(*self._marking(claim, RUNNING))

    def mark_last_chance(self, claim: Claim) -> bool:
        """Mark a message that needs the process to itself, if it may be delivered now; returns whether it may.

        Once it is marked, a death counts against it.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable; the message must not be delivered.
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
            # This incarnation was declared dead and the message requeued, or the stream was deleted.
            self.take(claim.tag)
            return False
        claim.mark, claim.ahead = mark, False
        if mark != ALONE:
            logger.warning(
                "suspect message %s of mailbox %s runs without isolation on %s: other messages still ran after %g s",
                claim.entry, claim.queue, self._incarnation, self._options.isolation_wait_s,
            )  # fmt: skip
        return True

    def may_claim(self) -> bool:
        """Whether no message has this process to itself, or waits for that."""
        return self.isolation.leave(self._mark_not_alone)

    def _mark_not_alone(self, tag: str) -> None:
        claim = self._by_tag.get(tag)
        if claim is not None:
            claim.mark = RUNNING
            self._ack_pipeline.command(*self._marking(claim, RUNNING))

    def _marking(self, claim: Claim, mark: int) -> tuple[Any, ...]:
        return ("XCLAIM", claim.stream, GROUP, self._incarnation, 0, claim.entry, "RETRYCOUNT", mark, "JUSTID")

    # -- settling and requeueing

    def settle(self, tag: str, outcome: str = "handled") -> None:
        """End a delivery with a mere count."""
        claim = self.take(tag)
        if claim is not None:
            self._ack_pipeline.ack(claim.stream, self._keys.ledger(claim.queue), outcome, claim.entry)

    def requeue(self, tags: Iterable[str], *, may_have_begun: bool = False) -> None:
        """Return messages to the head of their mailboxes.

        With ``may_have_begun``, those that a pool has started and that must not run twice end instead.
        """
        by_stream: dict[tuple[str, str, str], list[Claim]] = {}
        for tag in tags:
            claim = self.take(tag)
            if claim is not None:
                how_it_ran = "0" if claim.delivered else "undelivered"
                if may_have_begun and claim.started_at is not None:
                    how_it_ran = "begun"
                by_stream.setdefault((claim.stream, claim.queue, how_it_ran), []).append(claim)
        for (stream, queue, how_it_ran), claims in by_stream.items():
            for entries in batches(claims):
                self._ack_pipeline.post(*self._requeue_call(queue, stream, entries, how_it_ran=how_it_ran))
        if by_stream:
            # The next claim goes over another connection, and would overtake what comes back first.
            self._ack_pipeline.flush(wait_s=_CONFIRM_S)

    def requeue_interrupted(self, tag: str, end: ChildEnd, death: Callable[[], DeathReason]) -> None:
        """Return a message whose pool process ended while it ran; ``death`` says how, where the process died.

        A stop signal while the worker goes on may be the task's own (``os.kill(os.getpid(), SIGTERM)``) or an
        operator's. Such an end is unattributed, as is the death of a worker before the message was seen to start: after
        two of them the message runs alone (see isolation.py), and then an end counts against it.
        """
        claim = self.take(tag)
        if claim is None:
            return
        alone = claim.mark == ALONE
        if end is ChildEnd.DIED or (end is ChildEnd.STOP_SIGNAL and alone):
            reason, how_it_ran = death().value, "1" if alone else "0"
        elif end is ChildEnd.EXITED:
            reason, how_it_ran = EXITED, "1" if alone else "0"
        else:
            reason, how_it_ran = "", "stopping" if end is ChildEnd.STOPPING else "unattributed"
        self._ack_pipeline.post(*self._requeue_call(claim.queue, claim.stream, [claim.entry], reason, how_it_ran))
        self._ack_pipeline.flush(wait_s=_CONFIRM_S)

    def requeue_unreceived(
        self, queues: Collection[str], levels: Sequence[str], idle_s: float, expecting: Callable[[], list[float]]
    ) -> None:
        """Requeue claims that Redis has recorded for this incarnation and that never arrived here.

        ``expecting`` says for how many seconds each reader has waited for a reply of Redis. A claim in such a reply is
        not lost, however late it is read, so only claims that have been idle for longer count.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        streams = [self._keys.stream(queue, level) for queue in queues for level in levels]
        asked_at = monotonic()
        waits_s = expecting()
        if waits_s:
            idle_s = max(idle_s, max(waits_s) + _COMPARE_WITHIN_S)
        with self._lock:
            answer = self._commands.run(*commands.unleased_claims(streams, self._incarnation, idle_ms=to_ms(idle_s)))
        if waits_s and monotonic() - asked_at > _COMPARE_WITHIN_S:
            # Redis may have looked later than `idle_s` allows for; another time.
            return
        unknown = [
            (streams[index - 1], entry.decode())
            for index, entry in zip(answer[::2], answer[1::2], strict=True)
            if f"{entry.decode()}@{streams[index - 1]}" not in self._by_tag
        ]
        # A message settled a moment ago is not held either; once that is confirmed, it is not pending any more.
        if not unknown or not self._ack_pipeline.flush(wait_s=_CONFIRM_SETTLED_S):
            return
        for stream, entry in unknown:
            if self._ack_pipeline.is_unconfirmed(stream, entry):
                # It has ended; Redis records that when it takes what is sent, or when a broken key is repaired.
                continue
            queue = stream.removeprefix(f"{self._keys.root}q:").split(":", 1)[1]
            with self._lock:
                (result,) = self._commands.run(*self._requeue_call(queue, stream, [entry]))
            if result == b"returned":
                logger.warning(
                    "message %s requeued: Redis recorded the claim by %s, but the reply was lost",
                    entry,
                    self._incarnation,
                )

    def _requeue_call(
        self, queue: str, stream: str, entries: Iterable[str], reason: str = "", how_it_ran: str = "0"
    ) -> Call:
        return commands.requeue_held(
            self._keys,
            queue,
            stream,
            entries,
            max_deaths=int(self._options.max_deaths),
            ttl_ms=to_ms(self._options.outcome_ttl_s),
            by=self._incarnation,
            reason=reason,
            ran=how_it_ran,
        )

    # -- comparing with the pool

    def end_abandoned(self) -> None:
        """End messages for which no code runs, or will: compares what is held with what the pool runs."""
        now = monotonic()
        for claim in self.listed():
            if not _is_over(claim):
                claim.over_since = None
            elif claim.over_since is None:
                claim.over_since = now
            elif now - claim.over_since > _ABANDONED_AFTER_S:
                if claim.run is not None:
                    claim.run.abandon()
                elif claim.reserved is not None and (request := claim.reserved()) is not None:
                    request.forgotten()


def _is_over(claim: Claim) -> bool:
    """Whether no code runs for this message, or will."""
    if claim.run is not None:
        return claim.run.is_over()
    return claim.reserved is not None and is_forgotten(claim.reserved)


def batches(claims: Iterable[Claim]) -> Iterator[list[str]]:
    """The entries of claims, as many together as one script may requeue."""
    batch: list[str] = []
    size = 0
    for claim in claims:
        if batch and size + claim.size > _REQUEUE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(claim.entry)
        size += claim.size
    if batch:
        yield batch
