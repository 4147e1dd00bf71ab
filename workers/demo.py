"""The demo, as ``make demo`` runs it: real workers, a real SIGKILL, and a ledger that balances."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from rich.console import Console

from orchestrator import OrchestratorError
from orchestrator.core.errors import CallerError
from orchestrator.migration import installed_packages_root, python_files
from workers.app import orchestrator
from workers.conductor import Conductor
from workers.ending import Ending
from workers.workspace import prepare

#: Width of the output if there is no terminal, as in a CI log.
_WIDTH_OF_LOGS = 120


class NothingToAudit(CallerError):
    """There is no such path, or no Python file below it."""


def run(path: Path | None, *, chaos: bool, auditors: int, watch: bool = False) -> int:
    """Audit the Python files below ``path``; the exit code is 0 if every message is accounted for.

    Raises:
        NothingToAudit: there is no such path, or no Python file below it.
        OrchestratorError: Redis or the workers did not do their part; the logs are kept, and named.
        KeyboardInterrupt: the user has had enough. Whatever was started is gone.
    """
    root, files = find_sources(path)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_LOGS
    run_id = uuid4().hex[:8]
    ending = Ending()
    with ending.heeded(), prepare(orchestrator.settings, run_id) as workspace:
        try:
            conductor = Conductor(console, workspace, run_id, ending, chaos=chaos, auditors=auditors, watch=watch)
            return conductor.conduct(root, files)
        except OrchestratorError:
            if (kept := workspace.keep_logs()) is not None:
                console.print(f"demo: the logs are kept in {kept}", markup=False, soft_wrap=True)
            raise


def find_sources(path: Path | None) -> tuple[Path, list[Path]]:
    """Where to look, and the Python files there; by default the installed packages of this environment.

    Raises:
        NothingToAudit: there are none.
    """
    root = (path or installed_packages_root()).absolute()
    try:
        files = python_files(root)
    except OSError as error:
        raise NothingToAudit(f"{error.filename or root}: {error.strerror or error}") from None
    if not files:
        raise NothingToAudit(f"{root}: no Python file (*.py) there")
    return root, files
