"""Refusals of the scripts that accept messages become errors; a mailbox' flow control is declared.

The rules of flow control themselves are in ``admission.lua`` and ``breaker.lua``, inside the step that accepts a
message, so that they hold for every way of sending and for all senders at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from orchestrator.core.admission.concurrency import Concurrency
from orchestrator.core.admission.flow_policy import Breaker, Flow
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BulkheadFull, CircuitOpen, MailboxFull, NotAccepted
from orchestrator.core.keys import GROUP
from orchestrator.core.stored_values import stored_text
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.ask_record import NotSent
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Attempt

if TYPE_CHECKING:
    from orchestrator.transport.store import Store

#: How long a sender that waits for room pauses between two looks: from the first to the second, growing.
_PAUSE_FROM_S: Final = 0.005
_PAUSE_TO_S: Final = 0.1


#: Makes the context in which a sender waits for room.
Uncounted: TypeAlias = Callable[[], AbstractContextManager[None]]

#: Has the pool of the channel that publishes not count it while it waits. Other senders would wait for a channel.
UNCOUNTED: Final[ContextVar[Uncounted]] = ContextVar("orchestrator_uncounted_channel", default=nullcontext)


class DuplicateSend(NotAccepted):
    """A message under this idempotency key was accepted before; not an error, so no part of the tree."""

    def __init__(self, first_id: str) -> None:
        super().__init__(first_id)
        self.first_id = first_id


def refusal(recipient: str, why: Sequence[bytes], taken: int = 0) -> MailboxFull | CircuitOpen:
    """The error that says why a mailbox did not take a message, after the same script took ``taken`` others."""
    if why[0] == b"open":
        isolated = why[2].decode("utf-8", "replace") if len(why) > 2 else None
        return CircuitOpen(recipient, int(why[1]) / 1000, isolated)
    return MailboxFull(recipient, depth=int(why[1]) + taken, limit=int(why[2]))


def _bulkhead_full(recipient: str, why: Sequence[bytes]) -> BulkheadFull:
    in_flight, limit, wait_ms = map(int, why[1:4])
    emit(events.BULKHEAD_FULL, {"in_flight": in_flight}, agent=recipient)
    return BulkheadFull(recipient, in_flight, limit, wait_ms / 1000)


def retry_until_room(
    recipient: str,
    reply: list[Any],
    count: int,
    again: Callable[[int], Any],
    sleep: Callable[[float], None] | None = None,
) -> None:
    """Deal with a script's refusal of messages: wait for room where the mailbox says so, else raise.

    ``again(n)`` asks anew for all but the first ``n`` of the ``count`` messages. ``sleep(s)`` waits for so long, or
    until the request is woken, if it waits for a bulkhead.

    Raises:
        MailboxFull: there is no room, or none came in time. ``accepted`` says how many were accepted until then.
        CircuitOpen, BulkheadFull: likewise.
        DuplicateSend: the idempotency key is taken.
        NotSent: it is one more copy of a request that is not needed, or for which there is no budget.
    """
    done = 0
    until: float | None = None
    pause_s = _PAUSE_FROM_S
    pause = threading.Event()
    waits = False
    answer: Any = reply
    with ExitStack() as waiting:
        while type(answer) is list:
            if answer[0] == b"duplicate":
                raise DuplicateSend(stored_text(answer[1]))
            if answer[0] == b"not sent":
                raise NotSent(stored_text(answer[1]))
            _, taken, why = answer
            done += taken
            if done >= count:
                return
            block_s = int(why[3]) / 1000 if why[0] in (b"full", b"bulkhead") else 0.0
            if taken or until is None:
                # While there is progress, the wait begins anew.
                until, pause_s = monotonic() + block_s, _PAUSE_FROM_S
            # What has waited for one thing may be refused by another, for which nothing waits.
            left_s = until - monotonic() if block_s else 0.0
            if left_s <= 0:
                if why[0] == b"bulkhead":
                    raise _bulkhead_full(recipient, why)
                error = refusal(recipient, why, taken)
                error.accepted = done
                raise error
            if not waits:
                waits = True
                waiting.enter_context(UNCOUNTED.get()())
            if why[0] == b"bulkhead" and sleep is not None:
                sleep(min(int(why[4]) / 1000, left_s))
            else:
                pause.wait(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _PAUSE_TO_S)
            answer = again(done)


def close_breaker(store: Store, queue: str, attempt: Attempt) -> bool | None:
    """Close a mailbox' breaker by hand: whether it was not closed; ``None`` if there is none.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    was = store.run(*commands.close_breaker(store.keys, queue, attempt))
    return None if was < 0 else bool(was)


def isolate_breaker(store: Store, queue: str, why: str, attempt: Attempt) -> bool | None:
    """Isolate a mailbox' breaker: whether it was not isolated before; ``None`` if there is none.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    was = store.run(*commands.isolate_breaker(store.keys, queue, why, attempt))
    return None if was < 0 else bool(was)


def breaker_fields(breaker: Breaker) -> dict[str, Any]:
    """A breaker's policy as fields of the flow hash. What has no effect is left out, and costs the scripts nothing."""
    fields = {
        "window_ms": to_ms(breaker.window_s),
        "open_ms": to_ms(breaker.open_s),
        "failures": breaker.failures,
        "least": breaker.least if breaker.has_rate else None,
        "failure_rate": breaker.failure_rate,
        "slow_rate": breaker.slow_rate,
        "probes": breaker.probes if breaker.probes > 1 else None,
        "callers": breaker.callers if breaker.callers > 1 else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def declare_flow(
    store: Store,
    queue: str,
    flow: Flow,
    *,
    serves: bool,
    election: str = "",
    concurrency: Concurrency | None = None,
) -> None:
    """Have Redis enforce ``flow`` for a mailbox. A sender's word counts until who ``serves`` the mailbox gives its own.

    With an ``election``, which only they name, its leader alone claims from the mailbox; with a ``concurrency``, which
    only they know, no more messages run at a time.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    fields: dict[str, Any] = {
        "root": store.keys.root,
        "queue": queue,
        "levels": " ".join(store.levels),
        "group": GROUP,
        "outcome_ttl_ms": to_ms(store.options.outcome_ttl_s),
    }
    if flow.mailbox is not None:
        fields |= {
            "limit": flow.mailbox.limit,
            "overflow": str(flow.mailbox.overflow),
            "block_ms": to_ms(flow.mailbox.block_s),
            "warn_from": flow.mailbox.warn_from,
        }
    if flow.breaker is not None:
        fields |= breaker_fields(flow.breaker)
    has_bound, has_breaker = flow.mailbox is not None, flow.breaker is not None
    call = commands.declare_flow(
        store.keys,
        queue,
        fields,
        serves=serves,
        has_bound=has_bound,
        has_breaker=has_breaker,
        election=election,
        concurrency=None if concurrency is None else (concurrency.limit, concurrency.key),
    )
    store.run(*call)
