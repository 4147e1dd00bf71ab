"""The file that ``schedules export`` writes: one line of JSON a schedule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import decode_definition
from orchestrator.schedules.importing.found import LeftOut, UnreadableSource
from orchestrator.schedules.info import ScheduleInfo


def line_of(info: ScheduleInfo) -> str:
    """A schedule as a line, with when it was last due, so that a copy goes on from there."""
    return json.dumps(
        {"id": info.id, "last_ms": info.state.last_ms, "paused": info.state.paused, "definition": info.text},
        separators=(",", ":"),
    )


def read_export(path: str | Path) -> Iterator[tuple[ScheduleDefinition, int | None, str] | LeftOut]:
    """The definitions in a file, each with its last nominal time and why it is paused.

    Raises:
        UnreadableSource: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UnreadableSource(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            definition = decode_definition(data["id"], data["definition"])
            last_ms = data.get("last_ms")
            yield definition, None if last_ms is None else int(last_ms), str(data.get("paused") or "")
        except InvalidSchedule as error:
            yield LeftOut(f"line {number}", str(error))
        except (KeyError, TypeError, ValueError, AttributeError):
            yield LeftOut(f"line {number}", "not a line of `schedules export`")
