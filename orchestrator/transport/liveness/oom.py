"""Counts the processes of this one's control group that the kernel has killed for want of memory.

Nobody can ask that of a process that is gone; but the kernel counts them per group (`memory.events`, cgroup v2, or
`memory.oom_control`, v1: Documentation/admin-guide/cgroup-v2.rst in the kernel's source), and a neighbour in the same
group can read it. Where there is no neighbour, or no count, an OOM kill is a kill like any other.
"""

from __future__ import annotations

from pathlib import Path


class OomCounter:
    """The count of one control group: this process'."""

    def __init__(self, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        #: The file with the count; ``None`` if there is none.
        self.file = _find(proc, groups)
        #: The group, so that two processes know whether they share one; empty if it has no count.
        self.group = _identity(proc, self.file)

    def read(self) -> int | None:
        """The count now; ``None`` where the kernel keeps none for us."""
        if self.file is None:
            return None
        try:
            for line in self.file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            pass
        return None


def _find(proc: Path, groups: Path) -> Path | None:
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    candidates = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            # A container may see its group's path from outside, and the group itself as the root.
            candidates += [groups / "memory" / path.lstrip("/") / "memory.oom_control"]
            candidates += [groups / "memory" / "memory.oom_control"]
        elif not controllers:
            candidates += [groups / path.lstrip("/") / "memory.events", groups / "memory.events"]
    return next((file for file in candidates if file.is_file()), None)


def _identity(proc: Path, file: Path | None) -> str:
    if file is None:
        return ""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        found = file.parent.stat()
    except OSError:
        return ""
    return f"{boot}:{found.st_dev}:{found.st_ino}"
