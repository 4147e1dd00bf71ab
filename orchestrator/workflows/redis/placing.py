"""Places steps again that say what they need: those that are unplaced, or were placed with an agent that is down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, CallerError
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_text
from orchestrator.core.workflows.placement import PlacementRecord
from orchestrator.core.workflows.plan import StepPlan, number_of
from orchestrator.sending.address import Directory
from orchestrator.transport.redis.refused_work import RefusedWork
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.placement import MOST_CANDIDATES, message_for
from orchestrator.workflows.compiling.plan_writer import PlanWriter
from orchestrator.workflows.redis import scripts
from orchestrator.workflows.redis.agendas import advance

logger = get_logger(__name__)

#: Runs that one sweep deals with, and unplaced steps of each whose placements it looks at.
_RUNS: Final = 200
_STEPS: Final = 50


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Placing:
    """Places steps again. One per process; agents that have become known meanwhile are candidates, too."""

    _open_store: Callable[[], Store]
    _directory: Directory
    _writer: PlanWriter
    _refused: RefusedWork = field(default_factory=lambda: RefusedWork(logger))

    def work_off(self, until: float) -> None:
        """Go on until that time, by the monotonic clock.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._open_store()
        found = [stored_text(raw) for raw in store.run(*scripts.due_placements(store.keys, _RUNS))]
        for uid, down in zip(found[::2], found[1::2], strict=True):
            if monotonic() > until:
                return
            try:
                if not down:
                    self._add_candidates(store, uid)
                if store.run(*scripts.place_steps(store.keys, uid, down)):
                    advance(self._open_store(), uid, until - monotonic())
            except BrokerUnavailable as error:
                # One run must not hold up the others.
                self._refused.pass_over(f"placing steps of run {uid}", error)

    def _add_candidates(self, store: Store, uid: str) -> None:
        """Agents that offer what the unplaced steps of a run need, and were not known when it was started."""
        try:
            for number, record in self._unplaced(store, uid).items():
                self._add_to(store, uid, number, record)
        except RedisError as error:
            raise store.failure(error) from error

    def _unplaced(self, store: Store, uid: str) -> dict[str, PlacementRecord]:
        """The placements of unplaced steps, by their numbers."""
        key = store.keys.run(uid)
        steps: Any = store.client.zrange(f"{key}:unplaced", 0, _STEPS - 1)
        with store.reading(key):
            numbers = sorted({number_of(step.decode()) for step in steps})
            texts: Any = store.client.hmget(f"{key}:plan", numbers) if numbers else []
            found = zip(numbers, texts, strict=True)
            plans = {number: StepPlan.from_text(raw.decode()) for number, raw in found if raw}
            return _records(store, uid, plans)

    def _add_to(self, store: Store, uid: str, number: str, record: PlacementRecord) -> None:
        known = {one.agent for one in record.candidates}
        addresses = self._directory.offering(record.send["message"], record.needs)
        new = [address for address in addresses if address.agent not in known][: MOST_CANDIDATES - len(known)]
        if not new:
            return
        nonce: Any = store.client.hget(store.keys.run(uid), "nonce")
        if nonce is None:
            return
        try:
            messages = [message_for(self._directory, address, record.send) for address in new]
            candidates, templates = self._writer.candidates_of(
                messages, stored_text(nonce), has_references=record.send["refs"]
            )
        except CallerError as error:
            # This process cannot write them; another one may.
            logger.warning("agents %s are no candidates for run %s: %s", [one.agent for one in new], uid, error)
            return
        added = json.dumps([[one.agent, one.template, one.queue, one.level] for one in candidates])
        store.run(*scripts.add_candidates(store.keys, uid, number, added, templates))


def _records(store: Store, uid: str, plans: Mapping[str, StepPlan]) -> dict[str, PlacementRecord]:
    """The placements of steps that say what they need, by their numbers."""
    numbers = sorted({plan.template for plan in plans.values() if is_placed(plan)})
    texts: Any = store.client.hmget(f"{store.keys.run(uid)}:templates", numbers) if numbers else []
    return {number: PlacementRecord.from_text(raw) for number, raw in zip(numbers, texts, strict=True) if raw}


def is_placed(plan: StepPlan) -> bool:
    """Whether the plan of a step in Redis says what it needs, instead of a mailbox."""
    return "needs" in plan.options


def candidates_in(store: Store, uid: str, plans: Mapping[str, StepPlan]) -> dict[str, Sequence[str]]:
    """The agents that steps of a run may be placed with, by the numbers of the steps.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    names = {number: [one.agent for one in record.candidates] for number, record in _records(store, uid, plans).items()}
    return {number: names.get(plan.template, ()) for number, plan in plans.items() if is_placed(plan)}


def mailbox_of(store: Store, uid: str, plan: StepPlan, state: str) -> tuple[str, str]:
    """The mailbox of a step that was sent, and the level of its stream; ``state`` is its text.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    if not is_placed(plan):
        return plan.queue, plan.level
    record = _records(store, uid, {"": plan})[plan.template]
    one = record.candidates[int(state.partition(",")[2]) - 1]
    return one.queue, one.level
