"""Whether the kernel has killed a process for want of memory.

The kernel's log names each process that it kills so. Where the log cannot be read (it takes root or ``CAP_SYSLOG``, and
process ids that are the kernel's, so no container), there is a count for each control group, which does not say whom it
counts.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from enum import Enum
from pathlib import Path
from typing import Final

from orchestrator.supervisor.processes.ready_descriptor import READABLE, becomes_ready

_KERNEL_LOG: Final = Path("/dev/kmsg")

#: The inode of the namespace of process ids in which the kernel's log gives them (``PROC_PID_INIT_INO``).
_KERNELS_IDS: Final = 0xEFFFFFFC

#: A record of the kernel itself: its priority has no facility, which the records of processes have.
_VICTIM: Final = re.compile(
    rb"^[0-7],[^;]*;(?:[^:]*[Oo]ut of memory[^:]*: Killed process (\d+) \(|oom-kill:.*,pid=(\d+),uid=\d+$)",
    re.MULTILINE,
)

#: Victims that are kept; those of other trees are never asked for.
_MOST_VICTIMS: Final = 1000

#: The signal is sent before its victim is named, so a process can end before that.
_NAMED_WITHIN_S: Final = 0.05


class OomKill(Enum):
    """Whether the OOM killer has ended a process that SIGKILL has ended."""

    NO = "no"
    PERHAPS = "perhaps"
    YES = "yes"


class OomKills:
    """What the kernel says of its kills: by name, or at least how many there were."""

    def __init__(self) -> None:
        self._file = _events_file()
        self._before = self._count()
        self._log = _open_log()
        self._victims: deque[int] = deque(maxlen=_MOST_VICTIMS)

    def began(self, pid: int) -> None:
        """A process was started: earlier kills were others'."""
        self._read_log()
        self._forget(pid)
        self._before = self._count()

    def has_killed(self, pid: int) -> OomKill:
        """Whether a process that SIGKILL has ended was killed for want of memory; to be asked once."""
        has_risen = self._has_risen()
        if self._log < 0:
            return OomKill.PERHAPS if has_risen else OomKill.NO
        is_whole = self._read_log()
        if has_risen and pid not in self._victims and becomes_ready(self._log, READABLE, _NAMED_WITHIN_S):
            is_whole = self._read_log() and is_whole
        if pid in self._victims:
            self._forget(pid)
            return OomKill.YES
        return OomKill.PERHAPS if has_risen and not is_whole else OomKill.NO

    def _forget(self, pid: int) -> None:
        # It may have been named twice.
        while pid in self._victims:
            self._victims.remove(pid)

    def _has_risen(self) -> bool:
        now, before = self._count(), self._before
        self._before = now
        return now is not None and before is not None and now > before

    def _count(self) -> int | None:
        if self._file is None:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in self._file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return None

    def _read_log(self) -> bool:
        """Read who was killed since the last look; false if the kernel has overwritten some of it unread."""
        is_whole = True
        while self._log >= 0:
            try:
                record = os.read(self._log, 8192)
            except BrokenPipeError:
                is_whole = False
                continue
            except BlockingIOError:
                break
            except OSError:
                return False
            if not record:
                break
            self._victims.extend(int(killed or named) for killed, named in _VICTIM.findall(record))
        return is_whole


def _open_log() -> int:
    """A descriptor of the kernel's log, at its end; -1 if it cannot be read, or names processes by other ids."""
    try:
        if Path("/proc/self/ns/pid").stat().st_ino != _KERNELS_IDS:
            return -1
        log = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return -1
    try:
        os.lseek(log, 0, os.SEEK_END)
        os.read(log, 8192)
    except BlockingIOError:
        return log
    except OSError:
        os.close(log)
        return -1
    return log


def _events_file() -> Path | None:
    """The file with the count, of cgroup v2 or v1."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                candidates = [Path(f"/sys/fs/cgroup{path}/memory.events"), Path("/sys/fs/cgroup/memory.events")]
            elif "memory" in controllers.split(","):
                candidates = [Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")]
            else:
                continue
            for file in candidates:
                if file.exists():
                    return file
    return None
