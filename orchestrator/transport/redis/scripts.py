"""The Lua scripts of the package, put together from their parts, with the sums by which Redis knows them.

A package keeps its scripts in ``lua/commands``: each is one atomic step. A line ``--- @include "name"`` stands for the
file of that name in ``lua/includes`` of the same package, or of this one. A part is included once, where it is named
first. A line ``--- @extend table "name"`` includes a file whose functions belong to that table, and has them made when
one is first asked for (see ``lua/includes/extend.lua``). Redis skips what lies after a script's ``return``: rarely
needed functions are included there, too, because in each call Redis makes all functions that it comes by.

Scripts are loaded on every new connection that runs them. A server that has lost them answers NOSCRIPT; callers then
load them again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(rb'^--- @(?:include|extend (?P<table>[a-z_]+)) "(?P<name>[a-z_]+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, includes resolved, and the SHA-1 that EVALSHA wants."""

    source: bytes
    sha: str


def resolve(text: bytes, package: str = __package__, replaced: Mapping[str, bytes] | None = None) -> bytes:
    """Put the includes of a package into a text; ``replaced`` holds other texts for includes of these names.

    Raises:
        FileNotFoundError: an include does not exist.
    """
    folders = [_folder(owner, "includes") for owner in dict.fromkeys((package, __package__))]
    texts = replaced or {}
    included: set[str] = set()

    def include(found: re.Match[bytes]) -> bytes:
        name = found["name"].decode()
        if name in included:
            return b""
        included.add(name)
        part = _INCLUDE.sub(include, texts[name] if name in texts else _read(folders, name))
        if found["table"] is None:
            return part
        return b"extend(%s, function()\n%s\nend)" % (found["table"], part)

    return _INCLUDE.sub(include, text)


def command(name: str, package: str = __package__) -> bytes:
    """The text of a package's command, with its includes not yet resolved.

    Raises:
        FileNotFoundError: the package has no such command.
    """
    return _read([_folder(package, "commands")], name)


def _folder(package: str, name: str) -> Traversable:
    return files(package).joinpath("lua", name)


def _read(folders: list[Traversable], name: str) -> bytes:
    for folder in folders:
        file = folder.joinpath(f"{name}.lua")
        if file.is_file():
            return file.read_bytes()
    raise FileNotFoundError(f"{name}.lua is in none of {', '.join(map(str, folders))}")


@cache
def script_of(package: str, name: str) -> Script:
    """The command of that name in the package's ``lua`` folder."""
    text = resolve(command(name, package), package)
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


def source(name: str) -> bytes:
    """The text of one of the transport's commands."""
    return script_of(__package__, name).source


@cache
def sha(name: str) -> str:
    """The SHA-1 of one of the transport's commands."""
    return script_of(__package__, name).sha


@cache
def own(name: str) -> Script:
    """One of the transport's commands."""
    return script_of(__package__, name)
