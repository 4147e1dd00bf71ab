"""Finds and reads Python sources."""

from __future__ import annotations

import errno
import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import NoReturn


def read_source(path: str | os.PathLike[str]) -> str:
    """The text of a Python source, decoded as Python does: by byte order mark, coding cookie, or as UTF-8.

    Line ends come back as `\\n`. Raises OSError if the file cannot be read, UnicodeDecodeError if its bytes
    do not suit its encoding, and SyntaxError if that is unknown, decodes no text or contradicts the mark.
    """
    content = Path(path).read_bytes()
    try:
        return importlib.util.decode_source(content)
    except SyntaxError as error:
        error.filename = os.fspath(path)
        raise
    except UnicodeDecodeError:
        raise
    except (LookupError, UnicodeError) as error:
        # Codecs such as `hex` or `undefined` exist, so pass as a cookie, but decode no text.
        raise SyntaxError(f"unusable encoding: {error}", (os.fspath(path), 1, None, None)) from error


def python_files(root: Path) -> list[Path]:
    """The `*.py` files below `root`, sorted; `root` itself, whatever its name, if it is a file.

    Left out are names that begin with a dot, `__pycache__`, and directories below `root` that are symbolic
    links, which may lead in circles; links to files count. Raises FileNotFoundError if there is no `root`,
    NotADirectoryError if it is neither file nor directory, and OSError if a directory cannot be listed.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        # `is_dir` answers False to every error; this raises the true one, with the path.
        root.stat()
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
    found: list[Path] = []
    for directory, subdirectories, names in os.walk(root, onerror=_refuse):
        subdirectories[:] = [name for name in subdirectories if name != "__pycache__" and name[0] != "."]
        candidates = (Path(directory, name) for name in names if name.endswith(".py") and name[0] != ".")
        found.extend(path for path in candidates if path.is_file())
    return sorted(found)


def installed_packages_root() -> Path:
    """The directory with the pure Python packages of the running environment (`site-packages`)."""
    return Path(sysconfig.get_path("purelib"))


def _refuse(error: OSError) -> NoReturn:
    # By default `os.walk` skips directories that it cannot list, and a partial audit would look like a clean one.
    raise error
