"""The check of a message's fields that a step gives beside the message's class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from orchestrator.core.checks.problems import problems_in
from orchestrator.core.errors import CallerError
from orchestrator.core.message import Message, message_name
from orchestrator.core.plural import counted
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.nearest import meant
from orchestrator.workflows.references import references_in

#: pydantic's types of errors for a user's validators.
_VALIDATORS: Final = frozenset({"value_error", "assertion_error"})


def check_fields(cls: type[Message], fields: Mapping[str, Any]) -> None:
    """Check the names of fields, and the values of those without references, which are not known yet.

    A validator of the user's own counts only if no field has a reference: it may look at other fields, too.

    Raises:
        CallerError: names all fields that are unknown, missing or have a value that does not fit.
    """
    if not isinstance(fields, Mapping):
        raise CallerError(f"fields={masked_repr(fields)}; allowed: a mapping of the fields' names to their values")
    known = list(cls.model_fields)
    unknown = sorted(str(name) for name in fields if name not in cls.model_fields)
    missing = sorted(name for name, field in cls.model_fields.items() if field.is_required() and name not in fields)
    faults = []
    if unknown:
        noun = "field" if len(unknown) == 1 else "fields"
        near = meant(unknown[0], known)
        faults.append(f"{cls.__name__} has no {noun} {', '.join(unknown)}; it has: {', '.join(known) or 'none'}{near}")
    if missing:
        faults.append(f"{counted(len(missing), 'field')} of {cls.__name__} missing: {', '.join(missing)}")
    faults += _wrong_values(cls, fields)
    if faults:
        raise CallerError("; ".join(faults))


def _wrong_values(cls: type[Message], fields: Mapping[str, Any]) -> list[str]:
    known = {name: value for name, value in fields.items() if name in cls.model_fields and not references_in(value)}
    is_whole = len(known) == len(fields)

    def counts(error: Mapping[str, Any]) -> bool:
        at = error["loc"][0] if error["loc"] else None
        return (at in known or at is None) and (is_whole or error["type"] not in _VALIDATORS)

    try:
        cls.model_validate(known)
    except ValidationError as error:
        problems = problems_in(error, cls, known, (), counts)
        return [f"invalid {message_name(cls)}: {'; '.join(problems)}"] if problems else []
    except Exception:  # noqa: BLE001
        # A user's validator that does not expect fields to be missing. The worker checks the whole message.
        return []
    return []
