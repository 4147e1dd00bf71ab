"""A crontab file whose commands are ``celery call``: each becomes a schedule that sends the task itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator.core.schedules.cron_fields import NICKNAMES, read_cron
from orchestrator.schedules.importing.found import Found, FoundSchedule, LeftOut, UnreadableSource, json_of

_ALLOWED: Final = "allowed: celery [-A APP] call TASK [--args JSON] [--kwargs JSON] [--queue NAME]"

_OPTIONS: Final = {"-a": "args", "--args": "args", "-k": "kwargs", "--kwargs": "kwargs", "--queue": "queue"}


def read_crontab(path: str | Path) -> Iterator[Found]:
    """The lines of a crontab of a user (no user's name before the command).

    ``CRON_TZ=ZONE`` sets the zone of the lines after it; before it, it is the app's.

    Raises:
        UnreadableSource: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UnreadableSource(f"{path}: {error}") from None
    tz: str | None = None
    names: dict[str, int] = {}
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if equals and name.strip().isidentifier():
            if name.strip() == "CRON_TZ":
                tz = value.strip().strip("\"'")
            continue
        found = _line(f"line {number}", line, tz)
        if isinstance(found, FoundSchedule):
            names[found.name] = names.get(found.name, 0) + 1
            if names[found.name] > 1:
                found = _line(f"line {number}", line, tz, suffix=f"-{names[found.name]}")
        yield found


def _line(where: str, line: str, tz: str | None, suffix: str = "") -> Found:
    words = line.split(None, 1 if line.startswith("@") else 5)
    if len(words) < (2 if line.startswith("@") else 6):
        return LeftOut(where, "not five fields and a command")
    cron = NICKNAMES.get(words[0].lower(), words[0]) if line.startswith("@") else " ".join(words[:5])
    fields, faults = read_cron(cron)
    if fields is None:
        return LeftOut(where, "; ".join(str(fault) for fault in faults))
    if fields.narrows_day_and_weekday and not any(words[at].startswith("*") for at in (2, 4)):
        return LeftOut(
            where,
            f"{cron!r}: cron fires if day of month or day of week matches, and here both must; allowed: two schedules",
        )
    try:
        task, options = _command(words[-1])
        args, kwargs = json_of(options.get("args"), list, []), json_of(options.get("kwargs"), dict, {})
    except (ValueError, json.JSONDecodeError) as error:
        return LeftOut(where, str(error))
    sent = {"queue": options["queue"]} if "queue" in options else {}
    when = {"cron": cron} | ({"tz": tz} if tz else {})
    return FoundSchedule(f"{task}{suffix}", task, tuple(args), kwargs, sent, when=when)


def _command(command: str) -> tuple[str, dict[str, Any]]:
    # An unescaped % is a newline in a crontab: what comes after it is the command's input.
    words = shlex.split(command.replace("\\%", "%"))
    for place, word in enumerate(words):
        if word in (">", ">>", "|", "&&", ";", "2>&1") or word.startswith((">", "2>")):
            words = words[:place]
            break
    if not words or Path(words[0]).name != "celery" or "call" not in words:
        raise ValueError(f"command {command[:100]!r} is not allowed; {_ALLOWED}")
    rest = words[words.index("call") + 1 :]
    options: dict[str, Any] = {}
    task = ""
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            if not equals:
                if not rest:
                    raise ValueError(f"{name} has no value; {_ALLOWED}")
                value = rest.pop(0)
            options[_OPTIONS[name]] = value
        elif word.startswith("-") or task:
            raise ValueError(f"{word!r} is not allowed; {_ALLOWED}")
        else:
            task = word
    if not task:
        raise ValueError(f"command {command[:100]!r} names no task; {_ALLOWED}")
    return task, options
