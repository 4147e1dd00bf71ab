"""Ending deliveries: each way is one script, sent through the incarnation's acknowledgement pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import ref

from kombu.utils.json import dumps
from kombu.utils.uuid import uuid
from pydantic_core import to_json

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.supervision import is_tracked
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.secrets.masking import mask
from orchestrator.transport.letter_draft import LetterDraft, error_type, group_of, summary_of
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.transport.liveness.claim import Claim, Reserved, Run
from orchestrator.transport.liveness.incarnation import Incarnation
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection

logger = get_logger(__name__)


def _encode(outcome: Mapping[str, Any]) -> bytes | str:
    """As JSON, by the faster encoder if possible; that refuses half a surrogate pair, among others."""
    try:
        return to_json(outcome)
    except ValueError:
        return json.dumps(outcome)


def _emit_dead_lettered(letter_id: bytes | int, claim: Claim, letter: Mapping[str, Any]) -> None:
    if isinstance(letter_id, bytes):
        logger.warning("dead letter %s in %s: %s", letter_id.decode(), claim.queue, summary_of(letter))


class Settler:
    """Ends the deliveries of one channel. Ending one twice is harmless.

    Until the channel consumes with acknowledgement there is no holder; what it takes without acknowledging is in
    ``unleased_claims``, and is settled at once.
    """

    def __init__(
        self, keys: Keys, options: Options, wire: Callable[[], CommandConnection], on_settled: Callable[[str], None]
    ) -> None:
        self.holder: Incarnation | None = None
        self.unleased_claims: dict[str, Claim] = {}
        self._keys = keys
        self._options = options
        self._outcome_ttl_ms = to_ms(options.outcome_ttl_s)
        self._commands = wire
        self._forget = on_settled

    def add(self, claim: Claim) -> None:
        """Add a claim that Redis has recorded for this channel."""
        if self.holder is not None:
            self.holder.claims.add(claim)
        else:
            self.unleased_claims[claim.tag] = claim

    def holds(self, tag: str) -> bool:
        """Whether Redis has this message for us. Not so for a Broadcast copy, or once fenced."""
        return tag in (self.unleased_claims if self.holder is None else self.holder.claims)

    def _take_claim(self, tag: str) -> Claim | None:
        """Take out the claim that is about to be settled. Its prefetch slot is free, also if there is no claim."""
        self._forget(tag)
        return self.holder.claims.take(tag) if self.holder is not None else self.unleased_claims.pop(tag, None)

    def is_cancelled(self, delivery_id: str, *, is_new: bool) -> bool:
        """Whether a delivery was cancelled after it was claimed or while it waited for its next attempt.

        Redis is asked for a message that is not new, and as long as heartbeats report that there are such deliveries.
        """
        if is_new and (self.holder is None or not self.holder.has_cancels):
            return False
        return bool(self._commands().call("HEXISTS", self._keys.outcome_hooks(delivery_id), "cancel"))

    def _incarnation(self) -> str:
        return self.holder.id if self.holder is not None else ""

    def settle(self, tag: str, outcome: str, reason: str = "") -> None:
        """End a delivery with a mere count; settling twice is harmless. The ``reason`` is for the breaker."""
        outcome = f"{outcome} {reason}" if reason else outcome
        if self.holder is not None:
            self.holder.claims.settle(tag, outcome)
            return
        self.settle_unheld(tag, outcome)

    def settle_at_once(self, tag: str) -> None:
        """End a delivery before its handler begins: returns once the acknowledgement has left this process."""
        self.settle(tag, "handled")
        if self.holder is not None:
            self.holder.ack_pipeline.flush(may_wait=True)

    def settle_unheld(self, tag: str, outcome: str = "handled") -> bool:
        """End a delivery that needs no acknowledgement, before this returns; returns whether it was still claimed."""
        claim = self.unleased_claims.pop(tag, None)
        if claim is None:
            return False
        call = commands.settle(claim.stream, self._keys.ledger(claim.queue), outcome, [claim.entry])
        return bool(self._commands().run(*call))

    def requeue_unread(self, reader: str, streams: Sequence[tuple[str, str]]) -> None:
        """Requeue what a reader without a lease was given and has not settled.

        Raises:
            redis.exceptions.RedisError: Redis is away; a sweep finds them.
        """
        call = commands.unleased_claims([stream for stream, _ in streams], reader, idle_ms=0)
        answer = self._commands().run(*call)
        for at, entry in zip(answer[::2], answer[1::2], strict=True):
            stream, queue = streams[at - 1]
            deaths, ttl_ms = int(self._options.max_deaths), self._outcome_ttl_ms
            call = commands.requeue_held(
                self._keys, queue, stream, [entry], max_deaths=deaths, ttl_ms=ttl_ms, by=reader
            )
            self._commands().run(*call)
        self.unleased_claims.clear()

    def started(self, tag: str) -> None:
        """A pool has started on the message."""
        if self.holder is not None:
            self.holder.claims.mark_started(tag)

    def requeue(self, tags: Iterable[str], *, may_have_begun: bool = False) -> None:
        """Return messages to the head of their mailboxes; see :meth:`HeldClaims.requeue`."""
        if self.holder is not None:
            self.holder.claims.requeue(tags, may_have_begun=may_have_begun)

    def requeue_interrupted(self, tag: str, end: ChildEnd) -> None:
        """Return a message whose pool process ended while it ran."""
        if self.holder is not None:
            self.holder.requeue_interrupted(tag, end)

    def requeue_unstarted(self, tags: Iterable[str]) -> None:
        """Requeue those of the messages that no pool has started, or holds and will start in any case."""
        if self.holder is not None:
            claims = [claim for tag in tags if (claim := self.holder.claims.get(tag)) is not None]
            self.holder.claims.requeue([c.tag for c in claims if c.started_at is None and not c.handed])

    def deaths_of(self, tag: str) -> list[Any]:
        """The deaths of processes that ran a held message, as in its entry; the oldest first."""
        claim = self.holder.claims.get(tag) if self.holder is not None else None
        return json.loads(claim.death_list) if claim is not None and claim.death_list else []

    def handed(self, tag: str) -> None:
        """The message was given to a pool that runs whatever it has been given, even after the connection was lost."""
        claim = self.holder.claims.get(tag) if self.holder is not None else None
        if claim is not None:
            claim.handed = True

    def reserved(self, tag: str, request: ref[Reserved]) -> None:
        """Celery has a request for the message; the worker checks that it is not lost."""
        claim = self.holder.claims.get(tag) if self.holder is not None else None
        if claim is not None:
            claim.reserved = request

    def runs(self, tag: str, run: Run) -> None:
        """A pool has the message; the worker checks that code runs for it until it is settled."""
        claim = self.holder.claims.get(tag) if self.holder is not None else None
        if claim is not None:
            claim.run = run

    def end_later(self, message: Any, state: str, error: str, text: str) -> None:
        """Have a worker record for Celery the end of a message that is about to be settled."""
        tag = message.delivery_tag
        claim = self.holder.claims.get(tag) if self.holder is not None else None
        if claim is not None and self.holder is not None:
            call = commands.end_later(self._keys, claim.queue, dumps(message._raw), state, error, text)
            self.holder.ack_pipeline.post(*call)

    def dead_letter(
        self,
        tag: str,
        letter: LetterDraft,
        outcome: Mapping[str, Any] | None = None,
        delivery: str = "",
        *,
        celery_error: tuple[str, str] | None = None,
    ) -> str | None:
        """End a delivery as a dead letter; the caller emits the event.

        Args:
            tag: the delivery tag.
            letter: the reason and the error; recorded masked.
            outcome: what is recorded for ``delivery``; masked.
            delivery: the delivery id under which the outcome is recorded; '' if it is not.
            celery_error: class and text of the error that a worker records for Celery later, if Celery does not know.

        Returns:
            The message's mailbox; ``None`` if the delivery had ended before.
        """
        claim = self._take_claim(tag)
        if claim is None:
            return None
        full = letter.fields(claim.queue, self._incarnation(), self._options.redact)
        call = commands.dead_letter(
            self._keys,
            claim.queue,
            claim.stream,
            claim.entry,
            json.dumps(full),
            full["reason"],
            error_type(full),
            fingerprint=group_of(full),
            delivery=delivery,
            outcome=json.dumps(mask(outcome or {"outcome": "dead"}, self._options.redact)),
            ttl_ms=self._outcome_ttl_ms,
            # An unknown task's name, for one, may be no UTF-8.
            celery_error=[text.encode("utf-8", "backslashreplace") for text in celery_error or ()],
        )
        if self.holder is not None:
            self.holder.ack_pipeline.post(*call, lambda said: _emit_dead_lettered(said, claim, full))
        else:
            self._commands().run(*call)
        return claim.queue

    def settle_with_outcome(
        self, tag: str, counter: str, outcome: Mapping[str, Any], delivery: str, *, for_breaker: str = ""
    ) -> None:
        """End a delivery and record its outcome.

        What the breaker needs (see ``settle.lua``) is the outcome's reason, if ``for_breaker`` is empty.
        """
        claim = self._take_claim(tag)
        if claim is None or self.holder is None:
            return
        keys = self._keys
        call = commands.settle_with_outcome(
            claim.stream,
            keys.ledger(claim.queue),
            keys.outcome(delivery),
            claim.entry,
            counter,
            _encode(outcome),
            self._outcome_ttl_ms,
            # Redis may be unable to read it in the outcome, whose error may be no text.
            reason=for_breaker or str(outcome.get("reason", "")),
        )
        # While there is more to run, the next one's mark takes it along, or the flusher does in a moment.
        self.holder.ack_pipeline.post(*call, soon=len(self.holder.claims) > 0)

    def retry_later(self, tag: str, payload: Mapping[str, Any], level: str, pause_s: float) -> None:
        """End an attempt and schedule the next one, ``payload`` in that level of the mailbox, in one script.

        If the sender has cancelled the delivery meanwhile, it ends with this attempt.
        """
        claim = self._take_claim(tag)
        if claim is None or self.holder is None:
            return
        headers = payload["headers"]
        call = commands.retry(
            self._keys,
            claim.queue,
            claim.stream,
            claim.entry,
            f"{level}|{uuid()}",
            dumps(payload),
            to_ms(pause_s),
            ttl_ms=self._outcome_ttl_ms,
            delivery=headers["id"] if is_tracked(headers) else "",
        )
        self.holder.ack_pipeline.post(*call)
