"""An error of writing to a full disk names the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orchestrator.cli.output.private_files import open_private
from orchestrator.core.named_files import naming
from orchestrator.embedded import server
from orchestrator.embedded.port_taken import EmbeddedServerError
from orchestrator.health import files
from orchestrator.supervisor.state_directory import LOCK, StateDirectory

FULL = Path("/dev/full")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is created is on a full disk."""
    opened = os.open

    def open_(path: str, flags: int, mode: int = 0o777) -> int:
        return opened(FULL, os.O_WRONLY) if flags & os.O_CREAT else opened(path, flags, mode)

    monkeypatch.setattr(os, "open", open_)


def test_a_file_that_is_closed_late_is_named_too() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"), naming(FULL), FULL.open("w") as file:
        file.write("x")


def test_a_name_that_is_there_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing, naming(FULL):
        (tmp_path / "none").read_bytes()
    assert missing.value.filename == str(tmp_path / "none")


def test_an_export_names_its_file() -> None:
    with pytest.raises(OSError, match="/dev/full") as refused, open_private(FULL) as out:
        out.write("x" * 100_000)
    assert refused.value.errno == errno.ENOSPC


def test_a_health_file_is_named(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/\d+\.tmp'"):
        files.write(tmp_path, {"node": "n"})


def test_the_configuration_of_the_embedded_server_is_named(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(EmbeddedServerError, match=rf"{tmp_path}/redis.conf cannot be written: No space left on device"):
        server._write_private(tmp_path / "redis.conf", "port 0")


def test_the_lock_of_a_supervisor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/{LOCK}'"):
        StateDirectory(tmp_path)
