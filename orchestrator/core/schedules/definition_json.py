"""A schedule's definition as the JSON that Redis keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.core.errors import InvalidPolicy, InvalidSchedule
from orchestrator.core.policies.effective import Policy
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.triggers import Cron, Foreign, Interval, Once, Trigger
from orchestrator.core.schedules.values import AgentRecipient, Recipient, TaskRecipient
from orchestrator.core.spelling.nearest import nearest

#: The version of the JSON that this library writes; it reads no other one.
FORMAT_VERSION: Final = 1

#: The fields that are written as they are, with the defaults that are not.
_PLAIN: Final[Mapping[str, Any]] = {
    "start_ms": None,
    "end_ms": None,
    "max_runs": None,
    "jitter_s": 0.0,
    "misfire": "coalesce",
    "misfire_grace_s": None,
    "overlap": "allow",
    "pause_on_failure": False,
    "source": "dynamic",
    "owner": "",
}


def encode_definition(definition: ScheduleDefinition) -> str:
    """The definition without its id, as compact JSON; equal definitions have equal texts."""
    wire: dict[str, Any] = {
        "v": FORMAT_VERSION,
        **_recipient_to_wire(definition.recipient),
        **_to_wire(definition.trigger),
    }
    for name, default in _PLAIN.items():
        if (value := getattr(definition, name)) != default:
            wire[name] = value
    if policy := definition.policy.to_wire():
        wire["policy"] = policy
    if definition.metadata:
        wire["metadata"] = dict(definition.metadata)
    return json.dumps(wire, separators=(",", ":"), sort_keys=True, allow_nan=False)


def decode_definition(schedule_id: str, text: str | bytes) -> ScheduleDefinition:
    """Inverse of :func:`encode_definition`.

    Raises:
        InvalidSchedule: the text is no definition, or one of a newer version.
    """
    try:
        wire = json.loads(text)
        if not isinstance(wire, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise InvalidSchedule(schedule_id, [ScheduleFault("definition", text, "a JSON object")]) from None
    version = wire.pop("v", None)
    if version != FORMAT_VERSION:
        raise InvalidSchedule(schedule_id, [ScheduleFault("v", version, f"version {FORMAT_VERSION}")])
    try:
        return _from_wire(schedule_id, wire)
    except InvalidSchedule as error:
        raise InvalidSchedule(schedule_id, error.faults) from None
    except (InvalidPolicy, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidSchedule(
            schedule_id, [ScheduleFault("definition", wire, f"what this library writes ({error})")]
        ) from None


def _recipient_to_wire(recipient: Recipient) -> dict[str, Any]:
    match recipient:
        case AgentRecipient(agent, message, fields):
            wire: dict[str, Any] = {"agent": agent, "message": message, "fields": dict(fields)}
        case TaskRecipient(task, args, kwargs, options, is_lazy):
            wire = {
                "task": task, "args": list(args), "kwargs": dict(kwargs), "options": dict(options), "is_lazy": is_lazy
            }  # fmt: skip
    return {name: value for name, value in wire.items() if value}


def _to_wire(trigger: Trigger) -> dict[str, Any]:
    match trigger:
        case Cron(expression, tz, gap, fold):
            wire: dict[str, Any] = {"cron": expression, "tz": tz}
            if gap is not None:
                wire["dst_gap"] = gap
            if fold is not None:
                wire["dst_fold"] = fold
            return wire
        case Interval(every_ms):
            return {"every_ms": every_ms}
        case Once(at_ms):
            return {"at_ms": at_ms}
        case Foreign(kind, text, arguments):
            return {"foreign": [kind, text, list(arguments)]}


def _from_wire(schedule_id: str, wire: dict[str, Any]) -> ScheduleDefinition:
    recipient: Recipient
    if "agent" in wire:
        recipient = AgentRecipient(wire.pop("agent"), wire.pop("message"), wire.pop("fields", {}))
    else:
        args = tuple(wire.pop("args", ()))
        kwargs, options = wire.pop("kwargs", {}), wire.pop("options", {})
        recipient = TaskRecipient(wire.pop("task"), args, kwargs, options, wire.pop("is_lazy", False))
    trigger: Trigger
    if "cron" in wire:
        options = (wire.pop("dst_gap", None), wire.pop("dst_fold", None))
        trigger = Cron(wire.pop("cron"), wire.pop("tz", "UTC"), *options)
    elif "every_ms" in wire:
        trigger = Interval(wire.pop("every_ms"))
    elif "at_ms" in wire:
        trigger = Once(wire.pop("at_ms"))
    else:
        kind, text, arguments = wire.pop("foreign")
        trigger = Foreign(kind, text, tuple(arguments))
    policy = Policy.from_wire(wire.pop("policy", {}))
    metadata = wire.pop("metadata", {})
    if unknown := sorted(wire.keys() - _PLAIN.keys()):
        near = nearest(unknown[0], _PLAIN)
        raise InvalidSchedule(schedule_id, [ScheduleFault(unknown[0], wire[unknown[0]], "no such field", near)])
    return ScheduleDefinition(
        id=schedule_id, recipient=recipient, trigger=trigger, policy=policy, metadata=metadata, **wire
    )
