"""The ``options`` of an entry of ``beat_schedule``: Celery's, and those of a supervised send.

An entry without the latter is sent as Celery's beat sends it. One of them makes each of its fires a supervised send.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.policy import Retry
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.checks import is_json_object
from orchestrator.core.schedules.options import POLICY, read_policy
from orchestrator.core.spelling.nearest import nearest
from orchestrator.sending.messages.task_messages import KNOWN_OPTIONS

#: Options of a supervised send. ``priority`` is Celery's as well, and ``retry`` if it is no ``Retry``.
_OF_A_SEND: Final = (*(name for name in POLICY if name != "priority"), "metadata")

#: Options of an entry with which its message goes elsewhere than to the app's broker.
ELSEWHERE: Final = ("connection", "producer", "publisher")

_KNOWN: Final = frozenset({*KNOWN_OPTIONS, *_OF_A_SEND, *ELSEWHERE, "router", "result_cls"})

#: From this likeness on, an option that Celery does not know is a misspelt one of a send.
_LIKENESS: Final = 0.75


def split_options(options: Mapping[str, Any], *, any_name: bool) -> tuple[dict[str, Any], Policy, dict[str, Any]]:
    """Celery's options, and the policy and metadata of a supervised send; both say nothing if the entry asks for none.

    ``any_name``: the task's class has an ``apply_async`` of its own, which may know more options.

    Raises:
        InvalidSchedule: a value is not allowed, or a name is misspelt; names all of them.
    """
    faults: list[ScheduleFault] = []
    retry = options.get("retry")
    if not isinstance(retry, Retry) and retry not in (None, True, False):
        faults.append(ScheduleFault("options.retry", retry, "a Retry, or Celery's True or False"))
    given = {
        name: options[name]
        for name in _OF_A_SEND
        if options.get(name) is not None and (name != "retry" or isinstance(retry, Retry))
    }
    stamped = options.get("stamped_headers") or ()
    if (
        not isinstance(stamped, Collection)
        or isinstance(stamped, str)
        or not all(isinstance(name, str) for name in stamped)
    ):
        faults.append(ScheduleFault("options.stamped_headers", stamped, "a list of the names of headers"))
        stamped = ()
    for name in sorted(options.keys() - _KNOWN - set(stamped), key=str):
        near = nearest(name, _OF_A_SEND, likeness=_LIKENESS)
        if not any_name and (near or given):
            allowed = f"Celery's options, and {', '.join(_OF_A_SEND)}"
            faults.append(ScheduleFault(f"options.{name}", options[name], allowed, near))
    for name in ELSEWHERE:
        if given and options.get(name) is not None:
            faults.append(ScheduleFault(f"options.{name}", options[name], f"not with {', '.join(given)}"))
    found: list[ScheduleFault] = []
    policy = read_policy(given, found)
    if not is_json_object(given.get("metadata", {})):
        found.append(ScheduleFault("metadata", given["metadata"], "an object of JSON data"))
    faults += [ScheduleFault(f"options.{f.field}", f.value, f.allowed, f.nearest) for f in found]
    if faults:
        raise InvalidSchedule("", faults)
    celery = {name: value for name, value in options.items() if name not in given}
    return celery, policy, dict(given.get("metadata", {}))
