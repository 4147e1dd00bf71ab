"""Outcomes and attempts as the command line shows them: without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from orchestrator.cli.output.printable import one_line
from orchestrator.core.deliveries.history import Attempt
from orchestrator.core.deliveries.outcome import Dead, Handled, Outcome, to_wire
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import redact


def outcome_document(outcome: Outcome | None, hidden: tuple[str, ...]) -> dict[str, Any] | None:
    """The outcome as JSON data."""
    return None if outcome is None else _masked(to_wire(outcome), hidden)


def outcome_line(outcome: Outcome, hidden: tuple[str, ...]) -> str:
    """The outcome in a line."""
    shown: dict[str, Any] = _masked(to_wire(outcome), hidden)
    match outcome:
        case Handled(_, attempts):
            return f"handled at attempt {attempts}: {json.dumps(shown['result'])}"
        case Dead(reason, _, attempts, letter_id):
            where = f", dead letter {letter_id}" if letter_id else ""
            return one_line(f"dead at attempt {attempts}{where}: {reason}: {shown['error']}")
        case _:
            return one_line(" by ".join(str(v) for v in shown.values() if v))


def attempt_documents(attempts: Iterable[Attempt], hidden: tuple[str, ...]) -> list[dict[str, Any]]:
    """The attempts as JSON data."""
    shown: list[dict[str, Any]] = _masked([asdict(attempt) for attempt in attempts], hidden)
    return shown


def _masked(data: Any, hidden: tuple[str, ...]) -> Any:
    return mask(redact(data, hidden), hidden)
