"""The scripts of runs as typed functions: each puts keys and arguments into the order that its script expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.scripts import Script, script_of
from orchestrator.workflows.compiling.plan_writer import RunTexts

#: The script, its keys and its arguments, for ``store.run(*call)``.
Call: TypeAlias = tuple[Script, list[str], list[Any]]


def start_run(
    keys: Keys,
    uid: str,
    workflow_id: str,
    fingerprint: str,
    roots: str,
    deadline_ms: int | None,
    texts: RunTexts | None = None,
) -> Call:
    """Start a run. The script writes its plan if it gets the ``texts``; else the plan lies beside the run's key."""
    args = [uid, workflow_id, fingerprint, roots, "" if deadline_ms is None else deadline_ms]
    if texts is not None:
        args += [len(texts.fields), len(texts.templates)]
        for pairs in (texts.fields, texts.templates, texts.plan):
            args += [part for pair in pairs.items() for part in pair]
    return _script("start_run"), [keys.run(uid), keys.runs, keys.runs_by_id], args


def advance_run(keys: Keys, uid: str) -> Call:
    """Go on with a run's agenda, as far as one script may."""
    return _script("advance_run"), [keys.run(uid), keys.busy_runs], [uid]


def control_run(
    keys: Keys, uid: str, action: str, value: str = "", payload: str = "", *, attempt: Attempt | None = None
) -> Call:
    """Pause, resume or cancel a run, post an event to it, or end a wait whose time has come.

    A call with the ``attempt`` of an earlier one gets the answer of that.
    """
    names, token = [keys.run(uid), keys.timers], ""
    if attempt is not None:
        token = attempt.token
        names.append(attempt.key)
    return _script("control_run"), names, [uid, token, action, value, payload]


def set_paused(keys: Keys, name: str, attempt: Attempt, *, paused: bool) -> Call:
    """Have the new runs of a workflow start paused, or no longer."""
    return (
        _script("set_paused"),
        [keys.paused_workflows, attempt.key],
        [name, "1" if paused else "", attempt.token],
    )


def delete_run(keys: Keys, uid: str, attempt: Attempt, *, force: bool = False) -> Call:
    """Forget a run that has ended, or with ``force`` one that goes on.

    A call with the ``attempt`` of an earlier one gets the answer of that.
    """
    names = [keys.run(uid), keys.runs, keys.runs_by_id, keys.busy_runs, attempt.key]
    return _script("delete_run"), names, [uid, attempt.token, "1" if force else ""]


def repair_step(keys: Keys, uid: str, step: str, state: str) -> Call:
    """Record the outcome of a step whose message is nowhere, or send it again, if its state is still this one."""
    return _script("repair_step"), [keys.run(uid), keys.outcome(f"{uid}.{step}")], [step, state]


def read_outcomes(keys: Keys, uid: str, steps: Sequence[str]) -> Call:
    """Read outcomes of steps, up to 1 MB: those of the first steps, at least one; ``b""`` for one that has none."""
    return _script("read_outcomes"), [keys.run(uid)], list(steps)


def allot_steps(keys: Keys, uid: str, step: str, number: str, count: int, most: int) -> Call:
    """Give numbers to steps that are to take the place of one."""
    return _script("allot_steps"), [keys.run(uid), keys.outcome_hooks(f"{uid}.{step}")], [number, count, most]


def write_steps(keys: Keys, uid: str, templates: Mapping[str, str], plans: Mapping[str, str]) -> Call:
    """Add steps to the plan of a run."""
    pairs = [*templates.items(), *plans.items()]
    return _script("write_steps"), [keys.run(uid)], [len(templates), *(part for pair in pairs for part in pair)]


def place_steps(keys: Keys, uid: str, down: str) -> Call:
    """Place a run's unplaced steps again, and those that were placed with an agent that is ``down``, if it is named."""
    known = [keys.run(uid), keys.unplaced_runs, keys.runs_placed(down)]
    return _script("place_steps"), known, [uid, "1" if down else ""]


def due_placements(keys: Keys, most: int) -> Call:
    """Find the runs whose steps are to be placed again, each with the agent that is down, or ``""``."""
    return _script("due_placements"), [keys.unplaced_runs, keys.placed_agents], [keys.root, most]


def add_candidates(keys: Keys, uid: str, number: str, candidates: str, templates: Mapping[str, str]) -> Call:
    """Add agents to those that steps of a run may be placed with."""
    texts = [part for pair in templates.items() for part in pair]
    return _script("add_candidates"), [keys.run(uid)], [number, candidates, *texts]


def _script(name: str) -> Script:
    return script_of("orchestrator.workflows", name)
