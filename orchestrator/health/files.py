"""Health files: one per process, readable only by its user."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.core.named_files import naming

#: Environment variable that names the directory. Workers and probes both read it, so it cannot be a profile's setting.
DIRECTORY_VARIABLE = "ORCHESTRATOR_HEALTH_DIR"

#: The variables that say where health files are.
DIRECTORY_VARIABLES = (DIRECTORY_VARIABLE, "TMPDIR")

_SUFFIX = ".json"

#: Larger files are ignored; a health file has a few hundred bytes.
_LARGEST = 64 * 1024


class UntrustedDirectory(Exception):
    """The directory belongs to another user, or other users may write to it."""


def directories(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The directories of this user that hold health files; only this user can write to them.

    ``environment`` is that of the processes whose files they are.

    Without ``ORCHESTRATOR_HEALTH_DIR`` that is ``$TMPDIR/orchestrator-health-UID``. What another user has put under
    that name is passed over; then there is one with a random ending.

    Raises:
        UntrustedDirectory: the directory that the environment names is not this user's alone.
        FileNotFoundError: it is not there.
    """
    named = environment.get(DIRECTORY_VARIABLE)
    if named:
        _check(Path(named))
        return [Path(named)]
    base = _usual(environment)
    return [path for path in (base, *sorted(base.parent.glob(f"{base.name}-*"))) if _is_ours(path)]


def directory_to_write() -> Path:
    """The directory of this user's health files, made if there is none.

    Raises:
        UntrustedDirectory: the directory that the environment names is not this user's alone.
        OSError: it cannot be made.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    path = Path(named) if named else _usual()
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if named:
        _check(path)
        return path
    known = directories()
    if known:
        return known[0]
    path = path.with_name(f"{path.name}-{os.urandom(8).hex()}")
    path.mkdir(mode=0o700)
    return path


def _usual(environment: Mapping[str, str] = os.environ) -> Path:
    # Like `tempfile`, whose import would take a quarter of the probe's time. The owner of the directory is checked.
    return Path(environment.get("TMPDIR") or "/tmp") / f"orchestrator-health-{os.getuid()}"  # noqa: S108


def _is_ours(path: Path) -> bool:
    try:
        _check(path)
    except (OSError, UntrustedDirectory):
        return False
    return True


def _check(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UntrustedDirectory(f"{path}: allowed: a directory of user {os.getuid()} that no other may write to")


def write(folder: Path, vitals: Mapping[str, Any]) -> None:
    """Replace this process' file atomically.

    Raises:
        OSError: the directory is full, read-only or gone.
    """
    pid = os.getpid()
    fresh = folder / f"{pid}.tmp"
    fresh.unlink(missing_ok=True)
    # Exclusive, so that nothing that another user has put there (a pipe, a link) is written to.
    with naming(fresh), os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(json.dumps({**vitals, "pid": pid, "born": born(pid)}))
    fresh.replace(folder / f"{pid}{_SUFFIX}")


def remove(folder: Path, pid: int) -> None:
    """Remove a process' file."""
    for suffix in (".tmp", _SUFFIX):
        (folder / f"{pid}{suffix}").unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the files of processes that were killed."""
    for file in folder.iterdir():
        if file.suffix in (".tmp", _SUFFIX) and file.stem.isdecimal() and not is_running(int(file.stem)):
            remove(folder, int(file.stem))


def living(folder: Path) -> Iterator[dict[str, Any]]:
    """The last contents of each running process' file. Anything else in the directory is skipped.

    Raises:
        OSError: the directory cannot be read.
    """
    for file in sorted(folder.glob(f"*{_SUFFIX}")):
        yield from _vitals(file)


def of_process(folder: Path, pid: int) -> Iterator[dict[str, Any]]:
    """The last contents of a running process' file, if it has one there."""
    yield from _vitals(folder / f"{pid}{_SUFFIX}")


def last_of(folder: Path, pid: int, started: int | None) -> dict[str, Any] | None:
    """What a process that has ended, and was started then (see `born`), has written last."""
    try:
        vitals: dict[str, Any] = json.loads(_content(folder / f"{pid}{_SUFFIX}"))
        return vitals if vitals["pid"] == pid and vitals["born"] == started else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _vitals(file: Path) -> Iterator[dict[str, Any]]:
    try:
        vitals = json.loads(_content(file))
        pid, began = vitals["pid"], vitals["born"]
        # A pid may be reused; the pair of pid and start time is not.
        if is_running(int(pid)) and began in (None, born(pid)) and isinstance(vitals["node"], str):
            yield vitals
    except (OSError, ValueError, TypeError, LookupError, OverflowError):
        # The file was removed meanwhile, or is not a health file.
        return


def _content(file: Path) -> bytes:
    """A health file's bytes; nothing of what is no plain file of this user.

    Raises:
        OSError: it is gone, or a link.
    """
    # Without O_NONBLOCK, opening a pipe would block for ever.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            return b""
        return opened.read(_LARGEST)


def is_running(pid: int) -> bool:
    """Whether a process with this pid exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def born(pid: int) -> int | None:
    """Start time of the process, in kernel ticks since the boot; ``None`` without ``/proc``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        # The second field, the command, may hold blanks and parentheses.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
