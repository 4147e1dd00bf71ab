"""The directory of one running tree: its lock, and its control socket. Only its user can use it."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
from pathlib import Path

from orchestrator.core.named_files import naming

LOCK = "lock"
SOCKET = "control"

#: Where it is if nothing else is said, below the directory of the definition.
DEFAULT = Path(".state/supervise")


class StateDirectoryTaken(Exception):
    """Another supervisor runs with this directory."""


class StateDirectory:
    """The directory, locked as long as this process lives."""

    def __init__(self, path: Path) -> None:
        """Make and lock it.

        Raises:
            StateDirectoryTaken: another supervisor has it.
            OSError: it cannot be made, or belongs to another user.
        """
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{path}: allowed: a directory of user {os.getuid()}")
        path.chmod(0o700)
        self.path = Path(os.path.realpath(path))
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            first = os.read(self._lock, 32).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise StateDirectoryTaken(f"{self.path}: a supervisor runs with it, process {first}") from None
        os.ftruncate(self._lock, 0)
        with naming(self.path / LOCK):
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        #: A path of a socket has at most 107 bytes; this one always fits.
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Unlock it."""
        (self.path / SOCKET).unlink(missing_ok=True)
        os.close(self.descriptor)
        os.close(self._lock)


def user_of_peer(connection: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    user: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
    return user


def short_path(directory: int, name: str) -> str:
    """The path of a file in an open directory, as short as a socket's must be."""
    return f"/proc/self/fd/{directory}/{name}"
