"""Changing a letter's message before its replay."""

from __future__ import annotations

import base64
import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from orchestrator.core.errors import CallerError
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import redact
from orchestrator.deadletters.letter import DeadLetter, envelope_of

#: Validates an agent's message by its model: (agent, message, fields) -> fields as they are sent.
#: Raises ``InvalidMessage``; returns ``None`` if the agent or the message is not declared.
Validate = Callable[[str, str, Mapping[str, Any]], Mapping[str, Any] | None]


class Arguments(Protocol):
    """Knows the signatures of plain tasks."""

    def changed(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with ``changes``, by the names of the task's parameters. Raises ``InvalidMessage``."""

    def check(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check arguments by the task's signature, if that is known. Raises ``InvalidMessage``."""


class NoSignatures:
    """Used where no signature is known: any keyword may be set."""

    def changed(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with ``changes`` over the keywords."""
        return list(args), {**kwargs, **changes}

    def check(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Accept any arguments."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A changed message."""

    letter: DeadLetter
    before: Any
    after: Any
    #: The message as it would be sent.
    raw: bytes
    hidden: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Edit of {self.letter.id}>"

    def diff(self) -> str:
        """The changes as a unified diff of the arguments; of secrets only the names."""
        old, new = (
            json.dumps(mask(redact(body, self.hidden), self.hidden), indent=2, ensure_ascii=False).splitlines()
            for body in (self.before, self.after)
        )
        diff = list(difflib.unified_diff(old, new, self.letter.id, "edited", lineterm=""))
        hidden = self._changed_secrets()
        if hidden:
            diff.append(f"# changed, values hidden: {', '.join(hidden)}")
        elif not diff:
            same = self.before == self.after
            diff.append("# nothing changes" if same else "# changed, in parts of values that are hidden")
        return "\n".join(diff)

    def _changed_secrets(self) -> list[str]:
        """Paths of changed fields whose values are hidden."""
        names = {name.lower() for name in self.hidden}
        paths: dict[str, None] = {}
        _compare(self.before, self.after, "", names, paths)
        return list(paths)


#: Stands for a field that does not exist.
_ABSENT: Final = object()


def _compare(before: Any, after: Any, path: str, hidden: Collection[str], found: dict[str, None]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            old, new = before.get(name, _ABSENT), after.get(name, _ABSENT)
            below = f"{path}.{name}" if path else str(name)
            if str(name).lower() in hidden:
                if old != new:
                    found[below] = None
            else:
                _compare(old, new, below, hidden, found)
    elif isinstance(before, list) and isinstance(after, list):
        for old, new in zip(before, after, strict=False):
            _compare(old, new, path, hidden, found)


def edited(
    letter: DeadLetter,
    changes: Mapping[str, Any],
    validate: Validate | None,
    arguments: Arguments,
    hidden: tuple[str, ...],
) -> Edit:
    """The letter's message with ``changes`` over its fields, or over a plain task's arguments by their names.

    Raises:
        InvalidMessage: the changed message does not fit its model, or its task's signature.
        CallerError: the message cannot be read, or the changes are not a JSON object.
    """
    if not isinstance(changes, Mapping) or not changes:
        raise CallerError(f"changes={masked_repr(changes)}; allowed: an object with one or more fields")
    envelope = envelope_of(letter.raw)
    text = envelope.get("body")
    encoded = (envelope.get("properties") or {}).get("body_encoding") == "base64"
    before = letter.body()
    if not isinstance(text, str) or not isinstance(before, list) or len(before) != 2:
        raise CallerError(f"the message of dead letter {letter.id!r} cannot be read, so it cannot be edited")
    args, kwargs = before
    whole = json.loads(base64.b64decode(text) if encoded else text)
    if letter.agent and isinstance(args, list) and len(args) == 1 and isinstance(args[0], dict):
        fields = {**args[0], **changes}
        checked = validate(letter.agent, letter.message, fields) if validate is not None else None
        after = [[dict(fields if checked is None else checked)], kwargs]
    elif not letter.agent and isinstance(args, list) and isinstance(kwargs, dict):
        after = [*arguments.changed(letter.task, args, kwargs, changes)]
    else:
        raise CallerError(f"the message of dead letter {letter.id!r} has no fields that could be edited")
    try:
        body = json.dumps([*after, *whole[2:]], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CallerError(f"changes are not JSON data: {error}") from None
    envelope["body"] = base64.b64encode(body.encode()).decode() if encoded else body
    return Edit(letter, before, json.loads(body)[:2], json.dumps(envelope).encode(), letter.hidden(hidden))
