"""Ballots in Redis. What changes one is a script; see ``lua/``, and ``ballot_votes.lua`` of the transport."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from celery import Celery
from redis.exceptions import RedisError

from orchestrator.coordination.ballots import commands
from orchestrator.coordination.ballots.backend import BallotRequest, BallotState
from orchestrator.coordination.ballots.ballot_texts import copies_of, decision_texts, slices
from orchestrator.core.clock import to_ms
from orchestrator.core.coordination.decision import Decision
from orchestrator.core.errors import BallotExists, UnknownBallot
from orchestrator.core.stored_values import stored_text
from orchestrator.registry.outdated_workers import refuse_outdated
from orchestrator.registry.registry import OutdatedIncarnation
from orchestrator.sending.backend import Backend
from orchestrator.sending.messages.outgoing_message import queue_name
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.lost_answers import again_if_lost
from orchestrator.transport.redis.patience import outlast
from orchestrator.transport.redis.scripts import script_of
from orchestrator.transport.store import Store

T = TypeVar("T")

#: Ballots that one command reads.
_PAGE: Final = 200

#: Scripts by which one call sends decisions: of a thousand voters, each of which gets 1 MB.
_MOST_SCRIPTS: Final = 1000

#: Seconds for which one sweep goes on with sending a ballot's decision: the dead are more urgent.
_WORK_S: Final = 0.2

#: What is read of a ballot's state, with the ballot's own names.
_STATE: Final = (
    "message", "accepted", "approved", "rejected", "silent", "weight", "rule", "proposed_ms", "ends_ms", "decided_ms",
)  # fmt: skip


class RedisBallots:
    """See :class:`orchestrator.coordination.ballots.backend.BallotsBackend`."""

    def __init__(
        self,
        app: Celery,
        backend: Callable[[], Backend],
        store: Callable[[], Store],
        hidden: tuple[str, ...],
        outdated: Callable[[], Sequence[OutdatedIncarnation]],
    ) -> None:
        self._app = app
        self._backend = backend
        self._open_store = store
        self._hidden = hidden
        self._outdated = outdated

    # -- proposing

    def propose(self, request: BallotRequest) -> str:
        """Put a proposal into its voters' mailboxes, in one script for each 200 of them."""
        backend = self._backend()
        for voter in request.voters:
            backend.prepare(voter.copy)
        queues = {queue_name(voter.copy) for voter in request.voters}
        refuse_outdated(self._outdated(), queues, "not count the votes that it records")
        store = self._open_store()
        ballot_id, nonce = request.id or secrets.token_hex(8), secrets.token_hex(16)
        copies = copies_of(self._app, store, request, self._hidden)
        recorded = decision_texts(self._app, store, request, ballot_id, nonce)
        fields: Mapping[str, Any] = {
            "message": request.message,
            "proposal": json.dumps(request.proposal),
            "rule": request.rule,
            "numerator": request.threshold.numerator,
            "denominator": request.threshold.denominator,
            "strict": int(request.threshold.is_strict),
            "least": request.threshold.least,
            "silent_as": request.silent_as.value,
            "weight": sum(voter.weight for voter in request.voters),
            "nonce": nonce,
            **recorded.texts,
        }
        voters: Mapping[str, str] = recorded.voters
        said, left = b"", 0
        for part in slices(copies):
            known = ballot_id, request.fingerprint, max(1, to_ms(request.timeout_s))
            call = commands.propose(store.keys, *known, fields=fields, voters=voters, copies=part)
            said, left = self._run(store, call)
            if said == b"exists":
                raise BallotExists(ballot_id)
            if said == b"gone":
                raise UnknownBallot(ballot_id)
            fields, voters = {}, {}
            if said == b"decided":
                break
        if left:
            self._deliver(store, ballot_id)
        return ballot_id

    def _run(self, store: Store, call: Call) -> Any:
        name, keys, args = call
        return again_if_lost(lambda: store.run(script_of("orchestrator.coordination.ballots", name), keys, args))

    def _deliver(self, store: Store, ballot_id: str, until: float | None = None) -> None:
        """Go on with sending a decision to its voters."""
        for _ in range(_MOST_SCRIPTS):
            _, left = self._run(store, commands.end_ballot(store.keys, ballot_id, "time"))
            if not left or (until is not None and monotonic() > until):
                return

    # -- ending

    def time_came(self, ballot_id: str) -> None:
        """Decide a ballot whose time has come, or go on with sending a decision. A sweep calls this.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self._deliver(self._open_store(), ballot_id, monotonic() + _WORK_S)

    def cancel(self, ballot_id: str, why: str) -> bool:
        """Reject the proposal, if it is not decided."""
        store = self._open_store()
        has_decided, left = self._run(
            store, commands.end_ballot(store.keys, ballot_id, "cancel", why=why, token=secrets.token_hex(8))
        )
        if has_decided < 0:
            raise UnknownBallot(ballot_id)
        if left:
            self._deliver(store, ballot_id)
        return bool(has_decided)

    # -- reading

    def wait(self, ballot_id: str, timeout_s: float) -> Decision | None:
        """Wait for the decision; where nobody sweeps, the wait itself ends a ballot whose time has come."""
        until = monotonic() + timeout_s
        store = outlast(until, self._open_store)
        key = store.keys.ballot_decision(ballot_id)

        def look() -> Any:
            # Not in a transaction, which a full server refuses. What is read first does not change.
            with store.client.pipeline(transaction=False) as pipe:
                pipe.hmget(store.keys.ballot(ballot_id), ["ends_ms", "message", "proposal", "rule"])
                pipe.lindex(key, 0)
                pipe.exists(store.keys.ballot_undelivered(ballot_id))
                pipe.time()
                return pipe.execute()

        while True:
            (ends_ms, *known), decided, undelivered, (now_s, now_us) = self._ask(lambda: outlast(until, look))
            if ends_ms is None:
                raise UnknownBallot(ballot_id)
            with store.reading(store.keys.ballot(ballot_id)):
                left_s = int(ends_ms) / 1000 - (now_s + now_us / 1_000_000)
            if undelivered or (decided is None and left_s <= 0):
                outlast(until, lambda: self._deliver(store, ballot_id))
            if decided is not None:
                message, proposal, rule = (stored_text(raw or b"") for raw in known)
                with store.reading(store.keys.ballot(ballot_id)):
                    return Decision.from_wire(ballot_id, message, json.loads(proposal), rule, json.loads(decided))
            if left_s <= 0:
                continue
            if monotonic() >= until:
                return None
            wake_at = min(until, monotonic() + left_s)
            self._ask(lambda wake_at=wake_at: outlast(until, lambda: store.sleep_on(key, wake_at)))

    def read(self, ballot_id: str) -> BallotState | None:
        """One ballot."""
        store = self._open_store()
        key = store.keys.ballot(ballot_id)
        raw: Any = self._ask(lambda: store.client.hmget(key, list(_STATE)))
        with store.reading(key):
            return _state(ballot_id, raw)

    def list(self, limit: int) -> Sequence[BallotState]:
        """The ballots that were proposed last."""
        store, states, at = self._open_store(), list[BallotState](), 0
        while len(states) < limit:
            last = at + _PAGE - 1
            page: Any = self._ask(lambda at=at, last=last: store.client.zrevrange(store.keys.ballots, at, last))
            with store.client.pipeline(transaction=False) as pipe:
                for ballot_id in page:
                    pipe.hmget(store.keys.ballot(stored_text(ballot_id)), list(_STATE))
                rows: Any = self._ask(pipe.execute)
            rows_by_id = zip(map(stored_text, page), rows, strict=True)
            found = (store.read_or_skip(store.keys.ballot(one), lambda: _state(one, raw)) for one, raw in rows_by_id)  # noqa: B023
            states += [state for state in found if state is not None]
            if len(page) < _PAGE:
                break
            at += _PAGE
        return states[:limit]

    def _ask(self, command: Callable[..., T]) -> T:
        try:
            return command()
        except RedisError as error:
            raise self._open_store().failure(error) from error


def _state(ballot_id: str, raw: Sequence[bytes | None]) -> BallotState | None:
    known = {name: stored_text(value) for name, value in zip(_STATE, raw, strict=True) if value is not None}
    if "message" not in known:
        return None
    return BallotState(
        ballot_id,
        known["message"],
        {"0": "rejected", "1": "accepted"}.get(known.get("accepted", ""), "open"),
        int(known["approved"]),
        int(known["rejected"]),
        int(known["silent"]),
        int(known["weight"]),
        known["rule"],
        int(known["proposed_ms"]) / 1000,
        int(known["ends_ms"]) / 1000,
        int(known["decided_ms"]) / 1000 if "decided_ms" in known else None,
    )
