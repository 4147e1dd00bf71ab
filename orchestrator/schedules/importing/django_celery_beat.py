"""The schedules of django-celery-beat, as ``manage.py dumpdata django_celery_beat`` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from celery.schedules import solar

from orchestrator.core.schedules.options import to_epoch_ms
from orchestrator.schedules.importing.found import Found, FoundSchedule, LeftOut, UnreadableSource, json_of

_APP: Final = "django_celery_beat"
_UNITS: Final = ("days", "hours", "minutes", "seconds", "microseconds")
_ALLOWED: Final = "allowed: what `manage.py dumpdata django_celery_beat` writes"


def read_dump(path: str | Path) -> Iterator[Found]:
    """The periodic tasks in a dump.

    Raises:
        UnreadableSource: the file is no dump.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableSource(f"{path}: {error}; {_ALLOWED}") from None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("fields"), dict) for row in rows
    ):
        raise UnreadableSource(f"{path}: not a list of rows; {_ALLOWED}")
    tables: dict[str, dict[Any, dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(str(row.get("model", "")), {})[row.get("pk")] = row["fields"]
    for fields in tables.get(f"{_APP}.periodictask", {}).values():
        name = str(fields.get("name", ""))
        try:
            yield _found(name, fields, tables)
        except (KeyError, TypeError, ValueError) as error:
            yield LeftOut(name, str(error) if isinstance(error, ValueError) else f"no such field: {error}")


def _found(name: str, fields: Mapping[str, Any], tables: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> Found:
    schedule, when = _when(fields, tables)
    options = {
        option: fields[option] for option in ("queue", "exchange", "routing_key", "priority") if fields.get(option)
    }
    if headers := json_of(fields.get("headers"), dict, {}):
        options["headers"] = headers
    if fields.get("expire_seconds") is not None:
        options["expires"] = fields["expire_seconds"]
    if (start := _moment(fields.get("start_time"))) is not None:
        when["start"] = start
    if (end := _moment(fields.get("expires"))) is not None:
        when["end"] = end
    if fields.get("one_off"):
        when["max_runs"] = 1
    last = _moment(fields.get("last_run_at"))
    return FoundSchedule(
        name,
        str(fields["task"]),
        tuple(json_of(fields.get("args"), list, [])),
        json_of(fields.get("kwargs"), dict, {}),
        options,
        schedule,
        when,
        None if last is None else to_epoch_ms(last),
        bool(fields.get("enabled", True)),
    )


def _when(
    fields: Mapping[str, Any], tables: Mapping[str, Mapping[Any, Mapping[str, Any]]]
) -> tuple[Any, dict[str, Any]]:
    """A schedule object, or options that say when."""

    def row(kind: str) -> Mapping[str, Any] | None:
        key = fields.get(kind)
        if key is None:
            return None
        table = tables.get(f"{_APP}.{'clockedschedule' if kind == 'clocked' else f'{kind}schedule'}", {})
        if key not in table:
            raise ValueError(f"{kind}={key!r} is not in the dump; {_ALLOWED}")
        return table[key]

    if (found := row("crontab")) is not None:
        parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        cron = " ".join("".join(str(found.get(part, "*")).split()) for part in parts)
        return None, {"cron": cron, "tz": str(found.get("timezone") or "UTC")}
    if (found := row("interval")) is not None:
        if found["period"] not in _UNITS:
            raise ValueError(f"period={found['period']!r} is not allowed; allowed: {', '.join(_UNITS)}")
        return timedelta(**{found["period"]: found["every"]}), {}
    if (found := row("clocked")) is not None:
        return None, {"at": _moment(found["clocked_time"])}
    if (found := row("solar")) is not None:
        return solar(found["event"], float(found["latitude"]), float(found["longitude"])), {}
    raise ValueError("it has no schedule")


def _moment(text: Any) -> datetime | None:
    if not text:
        return None
    found = datetime.fromisoformat(str(text))
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
