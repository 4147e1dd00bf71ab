"""Lua scripts: what luacheck would find, with a parser that PyPI has.

A script may use no global but Redis' own and set none. Problems are also: a local that is not used or is declared
twice in a block, an include that is not needed, a function of an include that no script uses, and a command whose
header leaves something out, or has a key without a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luaparser import ast, astnodes

PACKAGES = (
    "orchestrator.transport.redis",
    "orchestrator.coordination",
    "orchestrator.coordination.ballots",
    "orchestrator.coordination.barriers",
    "orchestrator.monitors",
    "orchestrator.workflows",
)

#: What Redis gives a script.
GLOBALS = frozenset(
    {"KEYS", "ARGV", "redis", "cjson", "string", "table", "math", "pairs", "ipairs", "type", "tonumber", "tostring"}
    | {"unpack", "error", "pcall", "next", "setmetatable", "rawget"}
)

#: Lua 5.1 allows this many locals in a function.
MOST_LOCALS = 200

_INCLUDE = re.compile(r'^--- @include "([a-z_]+)"$', re.MULTILINE)
_EXTEND = re.compile(r'^--- @extend ([a-z_]+) "([a-z_]+)"$', re.MULTILINE)
_HEADER = ("KEYS:", "ARGV:", "Returns", "Costs:")


@dataclass
class Scope:
    """The locals of one block: name -> how often each was used."""

    used: dict[str, int] = field(default_factory=dict)


class Resolver:
    """Resolves the names of one script."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = [Scope()]
        self.undefined: list[str] = []
        self.unused: list[str] = []
        self.redeclared: list[str] = []
        #: All locals that were used, of whatever block.
        self.used: set[str] = set()

    def check(self, tree: Any) -> None:
        """Look at a whole script; its own locals stay in the first scope."""
        self._visit(tree.body)

    def _declare(self, name: str) -> None:
        scope = self.scopes[-1]
        if name in scope.used and name != "_":
            self.redeclared.append(name)
        if scope is not self.scopes[0] and name != "_" and scope.used.get(name) == 0:
            self.unused.append(name)
        scope.used[name] = 0

    def _use(self, name: str) -> None:
        for scope in reversed(self.scopes):
            if name in scope.used:
                scope.used[name] += 1
                self.used.add(name)
                return
        if name not in GLOBALS:
            self.undefined.append(name)

    def _block(self, names: Iterable[Any], *nodes: Any) -> None:
        self.scopes.append(Scope())
        for name in names:
            if isinstance(name, astnodes.Name):
                self._declare(name.id)
        for node in nodes:
            self._visit(node)
        self.unused += [name for name, uses in self.scopes.pop().used.items() if not uses and name != "_"]

    def _visit(self, node: Any) -> None:
        match node:
            case None | str() | int() | float() | bool():
                pass
            case list():
                for each in node:
                    self._visit(each)
            case astnodes.Name():
                self._use(node.id)
            case astnodes.LocalAssign():
                self._visit(node.values)
                for target in node.targets:
                    self._declare(target.id)
            case astnodes.LocalFunction():
                self._declare(node.name.id)
                self._block(node.args, *node.body.body)
            case astnodes.AnonymousFunction() | astnodes.Function():
                if isinstance(node, astnodes.Function):
                    self.undefined.append(f"function {node.name.id}")
                self._block(node.args, *node.body.body)
            case astnodes.Assign():
                self._visit(node.values)
                for target in node.targets:
                    if isinstance(target, astnodes.Name):
                        # To be assigned is no use.
                        if not any(target.id in scope.used for scope in self.scopes):
                            self.undefined.append(target.id)
                    else:
                        self._visit(target)
            case astnodes.Fornum():
                self._visit([node.start, node.stop, node.step])
                self._block([node.target], *node.body.body)
            case astnodes.Forin():
                self._visit(node.iter)
                self._block(node.targets, *node.body.body)
            case astnodes.Block():
                self._visit(node.body)
            case astnodes.If() | astnodes.ElseIf():
                self._visit(node.test)
                self._block([], node.body)
                if isinstance(node.orelse, astnodes.ElseIf):
                    self._visit(node.orelse)
                elif node.orelse is not None:
                    self._block([], node.orelse)
            case astnodes.While():
                self._visit(node.test)
                self._block([], node.body)
            case astnodes.Repeat():
                self._block([], node.body, node.test)
            case astnodes.Do():
                self._block([], node.body)
            case astnodes.Index():
                self._visit(node.value)
                if node.notation == astnodes.IndexNotation.SQUARE:
                    self._visit(node.idx)
            case astnodes.Invoke():
                self._visit([node.source, node.args])
            case astnodes.Field():
                self._visit(node.value)
                if node.between_brackets:
                    self._visit(node.key)
            case astnodes.Node():
                self._visit([value for name, value in vars(node).items() if not name.startswith("_")])


def _top_level(text: str) -> list[str]:
    """The locals that a file itself makes, outside of its functions."""
    names: list[str] = []
    for found in re.finditer(r"^local (?:function (\w+)|([\w, ]+?)(?: =|$))", text, re.MULTILINE):
        names += [name.strip() for name in (found[1] or found[2]).split(",")]
    return [name for name in names if name != "_"]


class Files:
    """The commands and includes of all packages."""

    def __init__(self) -> None:
        folders = [Path(*package.split("."), "lua") for package in PACKAGES]
        self.commands = {path: path.read_text("utf-8") for at in folders for path in sorted(at.glob("commands/*.lua"))}
        self.includes = {path: path.read_text("utf-8") for at in folders for path in sorted(at.glob("includes/*.lua"))}
        self.texts = {path.stem: text for path, text in self.includes.items()}
        self.made = {name: _top_level(text) for name, text in self.texts.items()}

    def stubbed(self, text: str) -> tuple[str, set[str]]:
        """A file with declarations of what its includes and theirs make in the place of them; the names of these."""
        seen: set[str] = set()
        made: set[str] = set()

        def names(include: str) -> list[str]:
            if include in seen:
                return []
            seen.add(include)
            inner = [name for each in _INCLUDE.findall(self.texts[include]) for name in names(each)]
            made.update(inner, self.made[include])
            return inner + self.made[include]

        # What an extension makes are functions of a table, made within a function.
        text = _EXTEND.sub(r"extend(\1, nil)", text)
        return _INCLUDE.sub(lambda found: "".join(f"local {name}\n" for name in names(found[1])), text), made

    def needed(self, include: str, text: str) -> bool:
        """Whether a file uses a name of an include; one that defines a function declared elsewhere always is."""
        defined = re.findall(r"^(\w+)[\w.]* = function", self.texts[include], re.MULTILINE)
        if not set(defined) <= set(self.made[include]):
            return True
        return not set(self.made[include]).isdisjoint(re.findall(r"\w+", _INCLUDE.sub("", text)))


def problems() -> Iterator[str]:
    """One line for each problem."""
    files = Files()
    used: set[str] = set()
    included: set[str] = set()
    for path, text in (files.commands | files.includes).items():
        included.update(_INCLUDE.findall(text), (name for _, name in _EXTEND.findall(text)))
        for include in _INCLUDE.findall(text):
            if include not in files.texts:
                yield f"{path}: there is no include {include!r}"
                return
            if path in files.commands and not files.needed(include, text):
                yield f"{path}: include {include!r} is not needed"
        resolver = Resolver()
        stubbed, made = files.stubbed(text)
        resolver.check(ast.parse(stubbed))
        top = resolver.scopes[0].used
        used.update(name for name, count in top.items() if count)
        # An include may stand in a block, too.
        used |= resolver.used & made
        unused = set(resolver.unused) - made
        if path in files.commands:
            header = re.split("^(?!-- )", text, maxsplit=1, flags=re.MULTILINE)[0]
            yield from (f"{path}: the header does not say {part!r}" for part in _HEADER if part not in header)
            # A user who may use the library's keys only may call no script with one that has no name.
            if "or ''" in header.partition("KEYS:")[2].partition("ARGV:")[0]:
                yield f"{path}: a key that is not needed is left out, and not ''"
            unused.update(name for name in _top_level(text) if not top[name])
        yield from (f"{path}: global {name!r}" for name in dict.fromkeys(resolver.undefined))
        yield from (f"{path}: {name!r} is not used" for name in sorted(unused))
        yield from (f"{path}: {name!r} is declared twice" for name in dict.fromkeys(resolver.redeclared))
        if len(top) > MOST_LOCALS:
            yield f"{path}: more than {MOST_LOCALS} locals"
    for path in files.includes:
        yield from (f"{path}: no script uses {name!r}" for name in files.made[path.stem] if name not in used)
        if path.stem not in included:
            yield f"{path}: no script includes it"
