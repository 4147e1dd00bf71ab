"""Reads the kernel's list of processes: finds those of a tree, and ends them without a race with reused ids."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic, sleep

from orchestrator.supervisor.reading.variables import TREE_VARIABLE

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_IS_LINUX = sys.platform == "linux"
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl if _IS_LINUX else None

#: Of the fields that `_stat` returns: the size of the memory, and the address at which the environment ends.
_VSIZE, _ENV_END = 20, 48

#: Between two looks whether processes that were killed have ended.
_LOOK_EVERY_S = 0.005


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that none escapes (Linux)."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends (Linux); at once if it has."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def born(pid: int) -> int | None:
    """Start time of a process, in kernel ticks since the boot; ``None`` without ``/proc``, or if it has ended."""
    found = _stat(pid)
    return int(found[19]) if found else None


def is_running(pid: int, began: int | None) -> bool:
    """Whether the process that was started then runs; one that only its parent has yet to notice does not."""
    found = _stat(pid)
    return found is not None and found[0] not in (b"Z", b"X") and int(found[19]) == began


def _stat(pid: int) -> list[bytes] | None:
    """The fields of ``/proc/PID/stat`` from the third on: the second may contain anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return None


def variable_of(pid: int, name: str) -> str:
    """A variable of the environment that a process was started with; empty if it has none, or cannot be read."""
    content = _environment(pid) or b""
    start = f"{name}=".encode()
    return next((os.fsdecode(one[len(start) :]) for one in content.split(b"\0") if one.startswith(start)), "")


def is_between_programs(pid: int) -> bool:
    """Whether a process is within ``execve``: its new memory has no arguments and no variables yet.

    Its environment reads as empty then, for as long as the process is kept from running.
    """
    found = _stat(pid)
    if found is None or found[_VSIZE] == b"0" or found[_ENV_END] != b"0":
        return False
    # Of a process that may not be looked at, all addresses are 0; with some kernels, those of all processes.
    return _environment(pid) == b""


def shown_variable_of(pid: int, name: str) -> str | None:
    """A variable of a process' environment, empty if it has none; ``None`` while it is within ``execve``."""
    was_between = is_between_programs(pid)
    found = variable_of(pid, name)
    if found:
        return found
    if was_between or is_between_programs(pid):
        return None
    # It may have been within one that began and ended between the two looks.
    return variable_of(pid, name)


def _environment(pid: int) -> bytes | None:
    """The environment that a process was started with; ``None`` if it cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall() or b""
    except OSError:
        return None


def is_listened_at(port: int) -> bool:
    """Whether a process listens at a port of loopback."""
    with socket.socket() as probe:
        # Closed connections of a moment ago do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def shows_this_namespace() -> bool:
    """Whether ``/proc`` names processes by the ids that they have here: not so in another PID namespace's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115
    except OSError:
        return True


def all_pids() -> Iterator[int]:
    """All processes of the system."""
    with contextlib.suppress(OSError):
        yield from (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208


def own_children() -> list[int]:
    """The children of this process, adopted ones too."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children", "rb", buffering=0) as file:  # noqa: PTH123
            return [int(pid) for pid in (file.readall() or b"").split()]
    except OSError:
        return [pid for pid in all_pids() if (_stat(pid) or [b"", b"0"])[1] == str(me).encode()]


def session_of(pid: int) -> int:
    """The session of a process; 0 if it has ended."""
    found = _stat(pid)
    return int(found[3]) if found else 0


def group_of(pid: int) -> int:
    """The process group of a process; 0 if it has ended."""
    found = _stat(pid)
    return int(found[2]) if found else 0


def descendants(roots: Iterable[int]) -> dict[int, int]:
    """The living descendants of processes as they are now, each with its process group."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid in all_pids():
        found = _stat(pid)
        if found and found[0] not in (b"Z", b"X"):
            children.setdefault(int(found[1]), []).append((pid, int(found[2])))
    below: dict[int, int] = {}
    waiting = list(roots)
    while waiting:
        for pid, group in children.get(waiting.pop(), ()):
            if pid not in below:
                below[pid] = group
                waiting.append(pid)
    return below


def kill_children(is_spared: Callable[[int], bool], timeout_s: float = 5.0) -> None:
    """SIGKILL and reap the children of this process, and those that it adopts from them, but for those that are spared.

    A child that is not reaped keeps its id, so no other process can be meant.
    """
    until = monotonic() + timeout_s
    while monotonic() < until:
        found = [pid for pid in own_children() if not is_spared(pid) and kill_child(pid)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        sleep(_LOOK_EVERY_S)


def kill_child(pid: int) -> bool:
    """SIGKILL a child that was not reaped; returns whether that is allowed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


def others_in_group(group: int) -> bool:
    """Whether a process group has living members beside its leader."""
    wanted = str(group).encode()
    for pid in all_pids():
        found = _stat(pid) if pid != group else None
        if found and found[2] == wanted and found[0] not in (b"Z", b"X"):
            return True
    return False


def group_exists(group: int) -> bool:
    """Whether a process group has members, be they zombies."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def kill_group(group: int) -> None:
    """SIGKILL a process group; does nothing if it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_if(pid: int, is_meant: Callable[[int], bool]) -> bool:
    """SIGKILL a process if it is still the one that is meant when it can be neither ended nor replaced unnoticed."""
    if not hasattr(os, "pidfd_open"):
        if not is_meant(pid):
            return False
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        return True
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_meant(pid):
            return False
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    finally:
        os.close(descriptor)


def kill_tree(state_directory: str, timeout_s: float = 5.0) -> int:
    """SIGKILL all processes with the mark of a tree, until there is none; returns how many there were.

    They have ended then: one that is ending has no environment any more, and may still have its files and ports.
    """
    me = os.getpid()
    within_exec: set[int] = set()
    killed: dict[int, int | None] = {}

    def is_meant(pid: int) -> bool:
        mark = shown_variable_of(pid, TREE_VARIABLE)
        if mark is None:
            within_exec.add(pid)
        found = _stat(pid) if mark == state_directory else None
        return found is not None and found[0] not in (b"Z", b"X")

    until = monotonic() + timeout_s
    while True:
        within_exec.clear()
        began_by_pid = {pid: born(pid) for pid in all_pids() if pid not in (me, os.getppid())}
        found = {pid: began for pid, began in began_by_pid.items() if kill_if(pid, is_meant)}
        killed.update(found)
        ending = any(is_running(pid, began) for pid, began in killed.items())
        if not (found or within_exec or ending) or monotonic() > until:
            return len(killed)
        sleep(_LOOK_EVERY_S)
