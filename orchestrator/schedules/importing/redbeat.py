"""The schedules of RedBeat: hashes in Redis, one a schedule, and a sorted set that names them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final

from celery.schedules import crontab, schedule

from orchestrator.core.schedules.options import to_epoch_ms
from orchestrator.core.schedules.zones import zone
from orchestrator.schedules.importing.found import Found, FoundSchedule, LeftOut, json_of

DEFAULT_PREFIX: Final = "redbeat:"

#: Schedules that are read at a time.
_PAGE: Final = 200


def read_redbeat(client: Any, prefix: str = DEFAULT_PREFIX) -> Iterator[Found]:
    """The schedules under a prefix (``redbeat_key_prefix``), of a redis-py client."""
    cursor = 0
    while True:
        cursor, members = client.zscan(f"{prefix}:schedule", cursor, count=_PAGE)
        for key, _ in members:
            definition, meta = client.hmget(key, "definition", "meta")
            yield found_in(_text(key).removeprefix(prefix), definition, meta)
        if not cursor:
            return


def found_in(name: str, definition: Any, meta: Any) -> Found:
    """The schedule in the two texts that RedBeat keeps of one."""
    if definition is None:
        return LeftOut(name, "its definition is gone from Redis")
    try:
        stored = json_of(_text(definition), dict, {})
        ran = json_of(_text(meta or ""), dict, {})
        when = _schedule(stored.get("schedule"))
        return FoundSchedule(
            str(stored.get("name", name)),
            str(stored["task"]),
            tuple(stored.get("args") or ()),
            dict(stored.get("kwargs") or {}),
            {option: value for option, value in (stored.get("options") or {}).items() if option != "schedule_id"},
            when,
            last_run_ms=_last_run(ran.get("last_run_at")),
            is_enabled=bool(stored.get("enabled", True)),
        )
    except KeyError as error:
        return LeftOut(name, f"no such field: {error}")
    except (TypeError, ValueError) as error:
        return LeftOut(name, str(error))


def _schedule(stored: Any) -> Any:
    kind = stored.get("__type__") if isinstance(stored, Mapping) else None
    if kind == "crontab":
        return crontab(**{name: value for name, value in stored.items() if name != "__type__"})
    if kind == "interval":
        return schedule(timedelta(seconds=stored["every"]), relative=bool(stored.get("relative")))
    if kind == "rrule":
        raise ValueError("an rrule has no counterpart; allowed: crontab and interval")
    raise ValueError(f"schedule {json.dumps(stored)[:100]} is not allowed; allowed: crontab and interval")


def _last_run(stored: Any) -> int | None:
    if not isinstance(stored, Mapping) or stored.get("__type__") != "datetime":
        return None
    parts = {name: value for name, value in stored.items() if name not in ("__type__", "timezone")}
    where = stored.get("timezone", "UTC")
    tz: tzinfo = (
        UTC if where == "UTC" else zone(where) if isinstance(where, str) else timezone(timedelta(seconds=where))
    )
    moment_ms = to_epoch_ms(datetime(**parts, tzinfo=tz))
    # RedBeat writes the first day of the calendar for what has never run.
    return moment_ms if moment_ms > 0 else None


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
