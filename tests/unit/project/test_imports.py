"""What importing the package loads, and that every public name is where its table says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import orchestrator

#: Modules that take long to import, each with all that it imports.
HEAVY = {"asyncio", "celery", "click", "dotenv", "kombu", "opentelemetry", "prometheus_client", "psutil", "pydantic",
         "pydantic_settings", "redis", "rich"}  # fmt: skip

#: Packages and modules that an Orchestrator imports when they are used.
LATER = (
    "orchestrator.cli",
    "orchestrator.deadletters.log",
    "orchestrator.eager",
    "orchestrator.embedded",
    "orchestrator.maintenance.manager",
    "orchestrator.monitors.redis_monitors",
    "orchestrator.wiring.redis_mode",
    "orchestrator.worker.requests.fast_path",
    "orchestrator.worker.requests.supervised_request",
)


def modules_after(statements: str) -> set[str]:
    """The modules that a fresh process has loaded after these statements."""
    program = f"{statements}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_facade_loads_no_heavy_module() -> None:
    loaded = modules_after("from orchestrator import Orchestrator")
    assert HEAVY & loaded == set()
    own = {name for name in loaded if name.startswith("orchestrator.")}
    # What names a misspelt argument is a decorator of the facade itself.
    spelling = "orchestrator.core.spelling"
    assert own == {"orchestrator.app", "orchestrator.core", spelling, f"{spelling}.option_names"}


def test_declaring_an_agent_loads_pydantic_but_neither_settings_nor_celery() -> None:
    loaded = modules_after("from orchestrator import Agent, Message, Orchestrator, handles")
    assert HEAVY & loaded == {"pydantic"}


def test_an_orchestrator_loads_what_it_needs_when_it_needs_it() -> None:
    loaded = modules_after("from celery import Celery; import orchestrator as o; o.Orchestrator(Celery('shop'))")
    assert {name for name in loaded if name.startswith(LATER)} == set()


def test_the_table_of_names_is_sorted_and_holds_what_type_checkers_see() -> None:
    tree = ast.parse(Path(orchestrator.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {node.module: tuple(alias.asname for alias in node.names) for node in imports}
    assert list(orchestrator._NAMES.items()) == list(seen.items()) == sorted(seen.items())
    assert all(names == tuple(sorted(names)) for names in orchestrator._NAMES.values())


def test_no_name_is_in_the_table_twice() -> None:
    names = [name for of_module in orchestrator._NAMES.values() for name in of_module]
    assert sorted(names) == sorted(set(names))
