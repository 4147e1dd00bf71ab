"""Which files are audited, and how their bytes become text."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from orchestrator.migration import audit_source, installed_packages_root, python_files, read_source


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"x = 1\n", "x = 1\n"),
        (b"x = 1\r\ny = 2\rz = 3", "x = 1\ny = 2\nz = 3"),
        ("x = 'é'".encode(), "x = 'é'"),
        ("\ufeffx = 'é'".encode(), "x = 'é'"),
        ("\ufeff# coding: utf-8\nx = 'é'".encode(), "# coding: utf-8\nx = 'é'"),
        ("# -*- coding: latin-1 -*-\nx = 'é'".encode("latin-1"), "# -*- coding: latin-1 -*-\nx = 'é'"),
        ("#!/bin/python\n# vim: set fileencoding=cp1251 :\nx = 'я'".encode("cp1251"),
         "#!/bin/python\n# vim: set fileencoding=cp1251 :\nx = 'я'"),
    ],
)  # fmt: skip
def test_text(tmp_path: Path, content: bytes, text: str) -> None:
    path = write(tmp_path / "shop.py", content)
    assert read_source(path) == text
    assert read_source(str(path)) == text
    assert audit_source(text, "shop.py") == ()


@pytest.mark.parametrize(
    "content",
    [
        b"# coding: klingon\n",
        b"# coding: hex\nx",
        b"# coding: rot13\nx",
        b"# coding: undefined\nx",
        b"\xef\xbb\xbf# coding: latin-1\n",
        b"x = '\xe9'\n",
    ],
)
def test_an_unusable_encoding(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "shop.py", content)
    with pytest.raises(SyntaxError) as refused:
        read_source(path)
    assert refused.value.filename == str(path)


def test_bytes_that_are_not_of_the_encoding(tmp_path: Path) -> None:
    # Only the first two lines are looked at to find the encoding.
    path = write(tmp_path / "shop.py", b"x = 1\ny = 2\nz = '\xe9'\n")
    with pytest.raises(UnicodeDecodeError):
        read_source(path)


def test_a_null_byte_is_read(tmp_path: Path) -> None:
    assert read_source(write(tmp_path / "shop.py", b"x\x00")) == "x\x00"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        read_source(tmp_path / "missing.py")
    assert missing.value.filename == str(tmp_path / "missing.py")
    with pytest.raises(IsADirectoryError):
        read_source(tmp_path)


def test_files_are_found_in_order(tmp_path: Path) -> None:
    expected = [write(tmp_path / name) for name in ("a/__init__.py", "a/b/c.py", "a/z.py", "b.py", "c.py/d.py")]
    for other in (
        "a/readme.txt", "a/x.pyc", "a/x.pyi", "a/py", "a/.hidden.py", ".venv/x.py", "a/.git/x.py",
        "a/__pycache__/x.py",
    ):  # fmt: skip
        write(tmp_path / other)
    assert python_files(tmp_path) == expected


def test_a_file_is_its_own_root(tmp_path: Path) -> None:
    script = write(tmp_path / "manage")
    assert python_files(script) == [script]


def test_a_hidden_root_is_searched(tmp_path: Path) -> None:
    path = write(tmp_path / ".venv" / "x.py")
    assert python_files(tmp_path / ".venv") == [path]


def test_an_empty_directory(tmp_path: Path) -> None:
    assert python_files(tmp_path) == []


def test_links(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "x.py")
    root = tmp_path / "root"
    inside = write(root / "a.py")
    (root / "circle").symlink_to(root, target_is_directory=True)
    (root / "elsewhere").symlink_to(outside.parent, target_is_directory=True)
    (root / "linked.py").symlink_to(outside)
    (root / "dangling.py").symlink_to(tmp_path / "missing.py")
    assert python_files(root) == [inside, root / "linked.py"]
    (tmp_path / "to_root").symlink_to(root, target_is_directory=True)
    assert python_files(tmp_path / "to_root") == [tmp_path / "to_root" / name for name in ("a.py", "linked.py")]


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        python_files(tmp_path / "missing")
    assert missing.value.filename == str(tmp_path / "missing")


def test_a_root_below_a_file(tmp_path: Path) -> None:
    below = write(tmp_path / "x.py") / "y"
    with pytest.raises(NotADirectoryError) as refused:
        python_files(below)
    assert str(below) in str(refused.value)


def test_a_root_that_is_neither_file_nor_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket's address must be short, so it is bound by a relative one.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(NotADirectoryError, match="socket"):
            python_files(tmp_path / "socket")


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not stop root, who runs the tests in many a container.
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        python_files(tmp_path)


def test_installed_packages() -> None:
    root = installed_packages_root()
    assert (root / "celery" / "__init__.py").is_file()
