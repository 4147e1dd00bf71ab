"""Checks the definition of a schedule: lists every fault with its field, the value and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.core.checks.numbers import is_number, is_whole_number, plain
from orchestrator.core.checks.text import is_text
from orchestrator.core.policies.effective import Policy
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.triggers import Cron, Foreign, Interval, Once
from orchestrator.core.schedules.values import AgentRecipient, Misfire, Overlap, Source, TaskRecipient
from orchestrator.core.schedules.zones import LAST_MS
from orchestrator.core.spelling.nearest import nearest

LONGEST_ID: Final = 100

#: The longest name of a schedule that is declared in Celery's settings, where any text is a name.
_LONGEST_NAME: Final = 500

#: The longest jitter, and the longest grace: a day and a year.
_JITTER_S: Final = 86400.0
_YEAR_S: Final = 365 * 86400.0


def definition_faults(d: Any) -> list[ScheduleFault]:
    """All that is wrong with the fields of a definition."""
    faults = [
        *id_faults(d.id, is_declared=d.source == Source.STATIC),
        *recipient_faults(d.recipient),
        *_number_faults(d),
    ]
    if not isinstance(d.trigger, Cron | Interval | Once | Foreign):
        faults.append(ScheduleFault("trigger", d.trigger, "a Cron, an Interval, a Once or a Foreign"))
    for name, choices in (("misfire", Misfire), ("overlap", Overlap), ("source", Source)):
        value = getattr(d, name)
        if value not in list(choices):
            faults.append(ScheduleFault(name, value, ", ".join(choices), nearest(value, choices)))
    if not isinstance(d.pause_on_failure, bool):
        faults.append(ScheduleFault("pause_on_failure", d.pause_on_failure, "True or False"))
    if not isinstance(d.policy, Policy):
        faults.append(ScheduleFault("policy", d.policy, "a Policy"))
    if not is_json_object(d.metadata):
        faults.append(ScheduleFault("metadata", d.metadata, "an object of JSON data"))
    if (d.source == Source.OWNED) != (isinstance(d.owner, str) and d.owner != ""):
        faults.append(ScheduleFault("owner", d.owner, "an incarnation if the source is 'owned', otherwise none"))
    return faults


def id_faults(schedule_id: object, *, is_declared: bool = False) -> list[ScheduleFault]:
    """The faults of an id; where a schedule is declared, any text may be one."""
    if is_declared and is_text(schedule_id) and 1 <= len(str(schedule_id)) <= _LONGEST_NAME:
        return []
    allowed = f"a text of 1 to {LONGEST_ID} characters without ':' and control characters"
    if not isinstance(schedule_id, str):
        return [ScheduleFault("id", schedule_id, allowed)]
    valid = "".join(c if c.isprintable() and c != ":" else "-" for c in schedule_id)[:LONGEST_ID].strip()
    is_valid = is_text(schedule_id) and valid == schedule_id != ""
    return [] if is_valid else [ScheduleFault("id", schedule_id, allowed, valid if is_text(valid) else "")]


def recipient_faults(recipient: object) -> list[ScheduleFault]:
    """The faults of a recipient."""
    names: dict[str, Any]
    data: dict[str, Any]
    match recipient:
        case AgentRecipient(agent, message, fields):
            names, data = {"agent": agent, "message": message}, {"fields": fields}
        case TaskRecipient(task, args, kwargs, options):
            names, data = {"task": task}, {"kwargs": kwargs, "options": options}
            if not isinstance(args, tuple) or not is_json_object({"args": list(args)}):
                return [ScheduleFault("args", args, "a tuple of JSON data")]
        case _:
            return [ScheduleFault("recipient", recipient, "an agent with a message, or a task's signature")]
    faults = [
        ScheduleFault(name, value, "a name") for name, value in names.items() if not (is_text(value) and value != "")
    ]
    faults += [
        ScheduleFault(name, value, "an object of JSON data")
        for name, value in data.items()
        if not is_json_object(value)
    ]
    return faults


def _number_faults(d: Any) -> list[ScheduleFault]:
    faults: list[ScheduleFault] = []
    for name, value in (("start_ms", d.start_ms), ("end_ms", d.end_ms)):
        if value is not None and not is_whole_number(value, 0, LAST_MS):
            faults.append(ScheduleFault(name, value, f"ms since 1970, 0 to {LAST_MS}"))
    if is_whole_number(d.start_ms) and is_whole_number(d.end_ms) and d.end_ms <= d.start_ms:
        faults.append(ScheduleFault("end_ms", d.end_ms, f"after start_ms={d.start_ms}"))
    if d.max_runs is not None and not is_whole_number(d.max_runs, 1, 10**9):
        faults.append(ScheduleFault("max_runs", d.max_runs, "a whole number from 1 to 1000000000, or None", "1"))
    if not is_number(d.jitter_s, 0, _JITTER_S):
        faults.append(ScheduleFault("jitter_s", d.jitter_s, f"seconds from 0 to {plain(_JITTER_S)}"))
    elif isinstance(d.trigger, Interval) and d.jitter_s * 1000 >= d.trigger.every_ms:
        faults.append(
            ScheduleFault("jitter_s", d.jitter_s, f"less than the interval of {plain(d.trigger.every_ms / 1000)} s")
        )
    if d.misfire_grace_s is not None and not is_number(d.misfire_grace_s, 0, _YEAR_S):
        faults.append(ScheduleFault("misfire_grace_s", d.misfire_grace_s, "seconds from 0 to a year, or None"))
    return faults


def is_json_object(value: object) -> bool:
    """Whether the value is an object of JSON data."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    try:
        json.dumps(dict(value), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True
