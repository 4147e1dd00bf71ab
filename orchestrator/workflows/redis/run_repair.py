"""The search for steps whose message is nowhere, so that no run waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_text
from orchestrator.core.workflows.plan import StepPlan, number_of
from orchestrator.core.workflows.run_calls import CallList
from orchestrator.core.workflows.run_state import ENDED
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.refused_work import RefusedWork
from orchestrator.transport.store import Store
from orchestrator.workflows.redis import scripts
from orchestrator.workflows.redis.agendas import advance
from orchestrator.workflows.redis.placing import mailbox_of

if TYPE_CHECKING:
    from orchestrator.workflows.backend import RunReads

logger = get_logger(__name__)

#: Seconds that one run of the chore searches; the same worker sweeps, which is more urgent.
_SLICE_S: Final = 0.2

#: Steps that one command reads, and messages that one looks at.
_PAGE: Final = 200

#: A message that was sent less than this long ago is not looked for.
LATE_S: Final = 60.0


class RunRepair:
    """Continues one search through the steps of all open runs at each call."""

    def __init__(self, reads: RunReads, store: Callable[[], Store], late_s: float = LATE_S) -> None:
        self._reads = reads
        self._open_store = store
        self._late_ms = to_ms(late_s)
        self._search: Iterator[tuple[str, str, str]] | None = None
        self._refused = RefusedWork(logger, "in the next search")

    def run(self, budget_s: float = _SLICE_S) -> int:
        """Search for a while. Returns how many steps were repaired.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store, repaired, until = self._open_store(), 0, monotonic() + budget_s
        if self._search is None:
            self._search = self._steps(store)
        for uid, step, state in self._search:
            if step:
                repaired += self._look_at(store, uid, step, state)
            if monotonic() > until:
                return repaired
        self._search = None
        return repaired

    def _steps(self, store: Store) -> Iterator[tuple[str, str, str]]:
        """Sent steps of open runs, and functions that wait for calls; an empty step after each page."""
        for uid in list(self._reads.uids()):
            try:
                with store.reading(f"{store.keys.run(uid)}:states"):
                    yield from self._steps_of(store, uid)
            except BrokerUnavailable as error:
                # What is wrong with one run must not end the search.
                self._refused.pass_over(f"the search through run {uid}", error)

    def _steps_of(self, store: Store, uid: str) -> Iterator[tuple[str, str, str]]:
        status = self._reads.status(uid)
        if status is None or status.ended:
            return
        cursor = 0
        while True:
            cursor, page = store.ask(partial(_scan, store=store, uid=uid, cursor=cursor))
            yield from ((uid, step, state) for step, state in page.items() if state[0] in "sy")
            yield uid, "", ""
            if cursor == 0:
                return

    def _look_at(self, store: Store, uid: str, step: str, state: str) -> bool:
        """Repair a step if it is stuck; returns whether it was repaired."""
        try:
            with store.reading(store.keys.run(uid)):
                return self._is_stuck(store, uid, step, state) and self._repair_step(store, uid, step, state)
        except BrokerUnavailable as error:
            self._refused.pass_over(f"the search for the message of step {step} of run {uid}", error)
            return False

    def _is_stuck(self, store: Store, uid: str, step: str, state: str) -> bool:
        if state[0] == "y":
            return self._has_no_calls_out(store, uid, step)
        return self._is_nowhere(store, uid, step, state)

    def _has_no_calls_out(self, store: Store, uid: str, step: str) -> bool:
        """Whether all that a workflow function waits for has ended: then it was to be sent again with the last one."""
        key = store.keys.run(uid)
        raw = store.ask(lambda call: call("HGET", f"{key}:calls", step))
        calls = CallList.from_text(None if raw is None else stored_text(raw))
        numbers = [number for number in calls.numbers if int(number) >= calls.last_batch]
        for at in range(0, len(numbers), _PAGE):
            some = numbers[at : at + _PAGE]
            states = store.ask(partial(_states_of, key=key, steps=some))
            if any(state is None or stored_text(state[:1]) not in ENDED for state in states):
                return False
        return bool(numbers)

    def _is_nowhere(self, store: Store, uid: str, step: str, state: str) -> bool:
        now_s, now_us = store.ask(lambda call: call("TIME"))
        if int(now_s) * 1000 + int(now_us) // 1000 - int(state[1:].partition("-")[0]) < self._late_ms:
            return False
        raw = store.ask(lambda call: call("HGET", f"{store.keys.run(uid)}:plan", number_of(step)))
        if raw is None:
            return False
        queue, level = mailbox_of(store, uid, StepPlan.from_text(stored_text(raw)), state)
        stream, entry = store.keys.stream(queue, level), state[1:].partition(",")[0]
        if store.ask(lambda call: call("XRANGE", stream, entry, entry)):
            return False
        return _look(store, queue, f"{uid}.{step}") in ("none", "ended")

    def _repair_step(self, store: Store, uid: str, step: str, state: str) -> bool:
        how, left = store.run(*scripts.repair_step(store.keys, uid, step, state))
        if left:
            advance(store, uid)
        if how:
            logger.warning("step %s of run %s repaired: its message was nowhere; %s", step, uid, stored_text(how))
        return bool(how)


def _states_of(call: Callable[..., Any], key: str, steps: list[str]) -> list[bytes | None]:
    states: list[bytes | None] = call("HMGET", f"{key}:states", *steps)
    return states


def _scan(call: Callable[..., Any], store: Store, uid: str, cursor: int) -> tuple[int, dict[str, str]]:
    raw, flat = call("HSCAN", f"{store.keys.run(uid)}:states", cursor, "COUNT", _PAGE)
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return int(raw), {stored_text(step): stored_text(state) for step, state in pairs}


def _look(store: Store, queue: str, delivery: str) -> str:
    """The place of a delivery: ``none`` if it is in no part of its mailbox."""
    # A message may go from one part to another meanwhile: a second look finds it.
    for stream in 2 * ("", *(store.keys.stream(queue, step) for step in store.levels)):
        begin = "-" if stream else "0"
        while begin:
            call = commands.find_delivery(
                store.keys, queue, delivery, stream=stream, begin=begin, count=_PAGE, ttl_ms=0
            )
            said, *rest = store.run(*call)
            where = stored_text(said)
            if where not in ("on", "none"):
                return where
            begin = stored_text(rest[0]) if rest else ""
    return "none"
