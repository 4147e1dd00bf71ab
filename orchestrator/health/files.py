"""The files in which processes say how they are. One per process, readable by its user alone."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Environment variable that names the directory. Both sides read it, so it is no setting of a profile.
DIRECTORY_VARIABLE = "ORCHESTRATOR_HEALTH_DIR"

_SUFFIX = ".json"


class UntrustedDirectory(Exception):
    """The directory is somebody else's, or others may write to it."""


def directory() -> Path:
    """Where the files are."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named)
    # As `tempfile` has it, which takes a quarter of the probe's time to import. Whose the directory is gets checked.
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"orchestrator-health-{os.getuid()}"  # noqa: S108


def checked_directory(*, make: bool = False) -> Path:
    """The directory, if only this user writes there.

    Raises:
        UntrustedDirectory: it belongs to another user, or is no directory, or others may write to it.
        OSError: it cannot be made, or is not there.
    """
    path = directory()
    if make:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UntrustedDirectory(f"{path}: allowed: a directory of user {os.getuid()} that no other may write to")
    return path


def write(folder: Path, signs: Mapping[str, Any]) -> None:
    """Replace this process' file in one step, so that nobody reads half of it.

    Raises:
        OSError: the directory is full, read-only or gone.
    """
    pid = os.getpid()
    fresh = folder / f"{pid}.tmp"
    fresh.write_text(json.dumps({**signs, "pid": pid, "born": born(pid)}))
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
    """What each process that still runs has written last.

    Raises:
        OSError: the directory cannot be read.
    """
    for file in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            signs = json.loads(file.read_text())
        except (OSError, ValueError):
            # Gone since it was listed.
            continue
        # A pid is given again; with the moment of its birth it is not.
        if isinstance(signs, dict) and is_running(signs["pid"]) and signs["born"] in (None, born(signs["pid"])):
            yield signs


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def born(pid: int) -> int | None:
    """When the process began, in the kernel's ticks since it booted; ``None`` where there is no ``/proc``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        # The second field, the command, may hold blanks and parentheses.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
