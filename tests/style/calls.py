"""Calls of Lua scripts: each command has one typed function that orders its keys and arguments; nothing else does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.style.tracked import tracked

#: Where the commands of a package are, and the modules with their functions.
FAMILIES = {
    Path("orchestrator/transport/redis"): "commands/*.py",
    Path("orchestrator/coordination"): "commands.py",
    Path("orchestrator/coordination/ballots"): "commands.py",
    Path("orchestrator/coordination/distribution"): "commands.py",
    Path("orchestrator/coordination/barriers"): "commands.py",
    Path("orchestrator/monitors"): "commands.py",
}

#: What runs a script by its name.
_RUNNERS = {"run", "post", "run_script", "script", "evalsha"}


def commands(package: Path) -> set[str]:
    """The names of a package's scripts."""
    return {path.stem for path in package.glob("lua/commands/*.lua")}


def functions(package: Path) -> set[str]:
    """The names of the functions that call a package's scripts."""
    trees = [ast.parse(path.read_text("utf-8")) for path in package.glob(FAMILIES[package])]
    return {
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.returns is not None and ast.unparse(node.returns) == "Call"
    }


def positional_calls(path: Path, names: set[str]) -> Iterator[str]:
    """The places in a Python file at which a script of one of these names gets its keys and arguments by position."""
    text = path.read_text("utf-8")
    # To parse all files takes six times as long as to parse those that name a script.
    if not re.search(f"""["'](?:{"|".join(names)})["']""", text):
        return
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(attr=runner), args=[first, _, *_] as parts) if runner in _RUNNERS:
                pass
            case ast.Call(args=[first, _, _, *_] as parts) | ast.Tuple(elts=[first, _, _] as parts):
                if not all(isinstance(part, ast.List) for part in parts[1:3]):
                    continue
            case _:
                continue
        if isinstance(first, ast.Call) and ast.unparse(first.func) == "sha" and first.args:
            first = first.args[0]
        if isinstance(first, ast.Constant) and first.value in names:
            yield f"{path}:{node.lineno}: call {first.value!r} by its function in commands"


def problems() -> Iterator[str]:
    """One line for each problem."""
    names: set[str] = set()
    for package, files in FAMILIES.items():
        scripts, typed = commands(package), functions(package)
        names |= scripts
        for name in sorted(scripts - typed):
            yield f"{package}/lua/commands/{name}.lua: there is no function {name}() in {package / files}"
        for name in sorted(typed - scripts):
            yield f"{package / files}: there is no script {name}.lua for {name}()"
    own = {path for package, files in FAMILIES.items() for path in package.glob(files)}
    for path in tracked(".py"):
        if path not in own:
            yield from positional_calls(path, names)
