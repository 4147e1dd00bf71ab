"""The shelve file of Celery's own scheduler. It holds pickles; of these, only Celery's schedule values are built.

A global that is none of them is replaced by a placeholder that does nothing, and the entry with it is left out.
"""

from __future__ import annotations

import dbm
import io
import pickle
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from celery.schedules import crontab, schedule, solar

from orchestrator.core.schedules.options import to_epoch_ms
from orchestrator.schedules.importing.found import Found, FoundSchedule, LeftOut, UnreadableSource

#: Endings that the implementations of dbm add to the name.
_ENDINGS: Final = ("", ".db", ".dat", ".pag")


#: What dbm raises, whichever implementation it uses.
_ERRORS: Final[tuple[type[Exception], ...]] = (*dbm.error,)


class _Entry:
    """The arguments that an entry is made from."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


class _Refused:
    """Stands for a value of a class that is not built."""

    name = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Refused:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Ignore an item of a list of another class."""

    def __setitem__(self, _: Any, __: Any) -> None:
        pass


def _zone(key: Any, *_: Any) -> Any:
    return zoneinfo.ZoneInfo(key)


def _attribute(owner: Any, name: str) -> Any:
    """``getattr`` for what older pickles ask of it: how a zone is read."""
    if owner is zoneinfo.ZoneInfo and name == "_unpickle":
        return _zone
    return _refused(f"{owner!r}.{name}")


def _refused(name: str) -> Any:
    return type("Refused", (_Refused,), {"name": name})


_BUILT: Final[dict[tuple[str, str], Any]] = {
    ("celery.beat", "ScheduleEntry"): _Entry,
    ("celery.schedules", "crontab"): crontab,
    ("celery.schedules", "schedule"): schedule,
    ("celery.schedules", "solar"): solar,
    ("datetime", "datetime"): datetime,
    ("datetime", "timedelta"): timedelta,
    ("datetime", "timezone"): timezone,
    ("zoneinfo", "ZoneInfo"): zoneinfo.ZoneInfo,
    ("zoneinfo", "ZoneInfo._unpickle"): _zone,
    ("builtins", "getattr"): _attribute,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only Celery's schedule values; no other class or function is ever imported."""
        found = _BUILT.get((module, name))
        return found if found is not None else _refused(f"{module}.{name}")

    def persistent_load(self, _: Any) -> Any:
        """None are written."""
        return _refused("a persistent object")


def read_shelf(path: str | Path) -> Iterator[Found]:
    """The entries of a shelve file of ``celery beat``, by default ``celerybeat-schedule``.

    Raises:
        UnreadableSource: there is no such file, or it is none.
    """
    try:
        with dbm.open(_base_of(Path(path)), "r") as shelf:
            raw = shelf.get(b"entries")
    except _ERRORS as error:
        raise UnreadableSource(f"{path}: {error}; allowed: the file that `celery beat --schedule` names") from None
    if raw is None:
        raise UnreadableSource(f"{path}: no entries in it; allowed: the file that `celery beat --schedule` names")
    try:
        entries = _Unpickler(io.BytesIO(raw)).load()
        items = list(entries.items())
    except Exception as error:  # noqa: BLE001 - a pickle may fail in any way
        raise UnreadableSource(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    for name, entry in items:
        yield _found(str(name), entry)


def _base_of(path: Path) -> str:
    """The name without the ending that dbm adds."""
    text = str(path)
    for ending in _ENDINGS[1:]:
        if text.endswith(ending) and dbm.whichdb(text.removesuffix(ending)):
            return text.removesuffix(ending)
    return text


def _found(name: str, entry: Any) -> Found:
    if not isinstance(entry, _Entry) or len(entry.arguments) != 8:
        return LeftOut(name, "not an entry of Celery's own scheduler")
    _, task, last_run_at, _, when, args, kwargs, options = entry.arguments
    if (refused := _refused_in([task, when, args, kwargs, options])) is not None:
        return LeftOut(name, f"it has a {refused}, which is not read; it stays with the code that declares it")
    last_ms = (
        to_epoch_ms(last_run_at if last_run_at.tzinfo else last_run_at.replace(tzinfo=UTC)) if last_run_at else None
    )
    return FoundSchedule(
        name, str(task), tuple(args or ()), dict(kwargs or {}), dict(options or {}), when, last_run_ms=last_ms
    )


def _refused_in(value: Any, is_refused: Callable[[Any], bool] = lambda one: isinstance(one, _Refused)) -> str | None:
    """The name of a class that was not built, somewhere in a value."""
    if is_refused(value):
        return str(value.name)
    if isinstance(value, type) and issubclass(value, _Refused):
        return str(value.name)
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif isinstance(value, crontab | schedule):
        parts = list(vars(value).values())
    return next((name for part in parts if (name := _refused_in(part)) is not None), None)
