"""Whether the kernel has killed a process of this control group for want of memory."""

from __future__ import annotations

import contextlib
from pathlib import Path


class OomKills:
    """The kernel's count, and whether it has risen."""

    def __init__(self) -> None:
        self._file = _events_file()
        self._before = self._count()

    def look(self) -> None:
        """Take the count as it is now."""
        self._before = self._count()

    def have_risen(self) -> bool:
        """Whether it has risen since."""
        now = self._count()
        risen = now is not None and self._before is not None and now > self._before
        self._before = now
        return risen

    def _count(self) -> int | None:
        if self._file is None:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in self._file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return None


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
