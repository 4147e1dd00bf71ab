"""Writes the fork of a run to Redis: its plan and the outcomes that it keeps, in parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.workflows.expansion import steps_in_place
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.core.workflows.run_state import RunState
from orchestrator.transport.json_text import encode
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.plan_writer import WRITING_MS, chunks
from orchestrator.workflows.fork import ForkOrigin, counts_of, is_own, kept_states, kept_steps, to_resolve
from orchestrator.workflows.records import is_step
from orchestrator.workflows.redis.pages import scan_hash

#: Values that one command writes.
_PAGE: Final = 500

#: Where the text of a step's plan has its dependents.
_DEPENDENTS_AT: Final = 9


@dataclass(frozen=True, slots=True)
class WrittenFork:
    """The arguments of the command that starts a written fork."""

    fingerprint: str
    #: The numbers of the steps that depend on nothing, as ranges.
    roots: str


def write_fork(store: Store, new: str, origin: ForkOrigin, workflow_id: str) -> WrittenFork | None:
    """Write a run in state ``writing``, which expires if it is not started in ten minutes; ``None`` if there is no run.

    Raises:
        BrokerUnavailable, redis.exceptions.RedisError: Redis is away.
    """
    key, copy = store.keys.run(origin.uid), store.keys.run(new)
    # Before the outcomes: a step that has ended has one.
    states = dict(scan_hash(store, f"{key}:states"))
    raw = dict(scan_hash(store, f"{key}:plan"))
    plan = {number: StepPlan.from_text(text) for number, text in raw.items() if is_step(number)}
    fields: Any = store.client.hgetall(key)
    if not fields or not plan:
        return None
    declared = int(fields[b"declared"])
    kept = kept_steps(plan, states, origin.after, declared)
    states = kept_states(states, kept)
    run: dict[str, Any] = {name.decode(): value for name, value in fields.items()}
    run = {name: value for name, value in run.items() if not is_own(name)} | counts_of(states)
    run["total"] = declared + sum(map(len, steps_in_place(plan, states).values()))
    run |= {"id": workflow_id, "id_json": encode(workflow_id)[1:-1], "state": RunState.WRITING.value}
    run |= origin.fields()
    _write(store, copy, run.items())
    _write(store, f"{copy}:plan", ((number, text) for number, text in raw.items() if number != "start"))
    _write(store, f"{copy}:templates", scan_hash(store, f"{key}:templates"))
    _write(store, f"{copy}:states", states.items())
    for part in (":outcomes", ":maps", ":calls"):
        _write(store, f"{copy}{part}", (one for one in scan_hash(store, f"{key}{part}") if one[0] in states))
    for some in chunks((f"d:{number}:0" for number in to_resolve(plan, kept)), _PAGE):
        # Both or none: the writer may be killed between.
        with store.client.pipeline() as pipe:
            pipe.rpush(f"{copy}:agenda", *some)
            pipe.pexpire(f"{copy}:agenda", WRITING_MS)
            pipe.execute()
    return WrittenFork(run["fingerprint"].decode(), raw["start"].split("\n")[_DEPENDENTS_AT])


def _write(store: Store, key: str, values: Iterable[tuple[str, Any]]) -> None:
    for some in chunks(values, _PAGE):
        with store.client.pipeline() as pipe:
            pipe.hset(key, mapping=dict(some))
            pipe.pexpire(key, WRITING_MS)
            pipe.execute()
