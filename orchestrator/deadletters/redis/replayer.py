"""Replaying dead letters from Redis: out of the log and into the mailbox in one step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from orchestrator.core.errors import RunEnded, StepGoesOn
from orchestrator.core.stored_values import stored_text
from orchestrator.deadletters.redis.letters import RedisLetters
from orchestrator.deadletters.store import (
    CANDIDATES_PER_STEP,
    Refusal,
    RefusedLetters,
    ReplayBatch,
    ReplayedLetter,
    ReplayProgress,
    ReplayResult,
)
from orchestrator.transport.admission.flow_control import refusal
from orchestrator.transport.redis import commands

#: Letters that one step replays by their ids. Each may be the last of its kind, which is then deleted too.
_IDS_PER_STEP = 100


class RedisLetterReplayer(RedisLetters):
    """Implements :class:`~.store.LetterReplayer`."""

    def replay(
        self, ids: Sequence[str], audit_id: str, *, auto: bool, watched: bool, replacement: bytes = b""
    ) -> ReplayResult:
        """Move letters to their mailboxes, each in one step."""
        replies: list[Any] = []
        left: Sequence[str] = ids
        while left:
            call = commands.replay(
                self._k,
                self._store.levels[1],
                left[:_IDS_PER_STEP],
                audit_id=audit_id,
                auto=auto,
                watched=watched,
                message=replacement,
            )
            unprocessed, *reply = self._store.run(*call)
            left = [*stored_text(unprocessed).split(), *left[_IDS_PER_STEP:]]
            replies.append(reply)
        return _replay_result(replies, len(ids))

    def replay_found(
        self,
        indexed: Sequence[tuple[str, str]],
        state: str,
        low: str,
        high: str,
        audit_id: str,
        *,
        limit: int,
        watched: bool,
    ) -> ReplayResult | None:
        """Find letters and replay each in the step that finds it."""
        replies: list[Any] = []
        processed = 0
        while low and processed < limit:
            call = commands.replay_found(
                self._k,
                self._store.levels[1],
                indexed,
                audit_id=audit_id,
                watched=watched,
                low=low,
                high=high,
                limit=limit - processed,
                examine=CANDIDATES_PER_STEP,
                state=state,
            )
            if not (found := self._store.run(*call)):
                return _replay_result(replies, processed, low) if processed else None
            cursor, count, *reply = found
            replies.append(reply)
            processed += int(count)
            low = f"({stored_text(cursor)}" if cursor else ""
        return _replay_result(replies, processed, low)

    def replay_progress(self, replayed: Sequence[ReplayedLetter]) -> ReplayProgress:
        """By their recorded outcomes; a plain Celery message has ended when it has left its mailbox."""

        def read() -> list[Any]:
            with self._store.client.pipeline(transaction=False) as pipe:
                for one in replayed:
                    if one.delivery_id:
                        pipe.lindex(self._k.outcome(one.delivery_id), -1)
                    else:
                        pipe.xrange(self._k.stream(one.queue, self._store.levels[1]), min=one.entry, max=one.entry)
                return pipe.execute()

        ended = dead_without_letter = 0
        for one, found in zip(replayed, self._call(read), strict=True):
            ended += bool(found) is bool(one.delivery_id)
            if one.delivery_id and found:
                outcome = json.loads(found)
                dead_without_letter += outcome.get("outcome") == "dead" and not outcome.get("letter_id")
        return ReplayProgress(ended, dead_without_letter)

    def count_dead_again(self, audit_id: str) -> int:
        """Number of letters replayed by this action that are dead letters again."""
        return int(self._call(lambda: self._store.client.hget(self._k.letter_audit_progress(audit_id), "dead")) or 0)

    def add_dead_again(self, audit_id: str, count: int) -> None:
        """Add replayed letters that died again without a new letter. One round trip."""
        self._add_progress(audit_id, "dead", count)


#: Why a letter of a run's step is refused.
OF_STEPS: Final[dict[bytes, type[RunEnded | StepGoesOn]]] = {b"run ended": RunEnded, b"step goes on": StepGoesOn}


def _replay_result(replies: Sequence[Sequence[Any]], processed: int, next_low: str = "") -> ReplayResult:
    """The result of several script calls; ``replay.lua`` describes the replies."""
    batches: list[ReplayBatch] = []
    refused: list[RefusedLetters] = []
    for refusals, *sent in replies:
        for queue, reply, ids in refusals or ():
            of_step = OF_STEPS.get(reply[0])
            why: Refusal = refusal(stored_text(queue), reply) if of_step is None else of_step(stored_text(queue))
            refused.append(RefusedLetters(stored_text(ids).split(), why))
        for at in range(0, len(sent), 4):
            queue, ids, entries, deliveries = sent[at : at + 4]
            delivery_ids = [stored_text(delivery) for delivery in deliveries] if deliveries else ()
            batches.append(
                ReplayBatch(stored_text(queue), stored_text(ids).split(), stored_text(entries).split(), delivery_ids)
            )
    return ReplayResult(tuple(batches), tuple(refused), processed, next_low)
