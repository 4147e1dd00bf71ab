"""The command ``orchestrator``. It imports only what its subcommand needs: Celery takes longer than a probe may."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``orchestrator``; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["doctor"]:
        from orchestrator.cli import doctor

        return doctor.main(arguments[1:])
    if arguments[:1] == ["supervise"]:
        from orchestrator.supervisor.command import main as supervise

        return supervise(arguments[1:])
    if arguments[:1] == ["tree"]:
        from orchestrator.supervisor.operator.tree_command import main as tree

        return tree(arguments[1:])
    return _other(arguments)


def _other(arguments: Sequence[str]) -> int:
    import argparse
    from importlib.metadata import version

    from orchestrator.health.command import add_commands

    parser = argparse.ArgumentParser(
        prog="orchestrator",
        description="Supervision for Celery: what needs no app.",
        epilog="For an app: celery -A APP agents|ballots|barriers|calls|dead-letters|delivery|doctor|elections|leases|"
        "ledger|monitors|policies|pools|schedules|send|timeouts|workflows",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('celery-orchestrator')}")
    commands = parser.add_subparsers(dest="command", required=True)
    add_commands(commands)
    commands.add_parser("doctor", help="whether Redis is fit: version, eviction, persistence, rights", add_help=False)
    commands.add_parser("supervise", help="run a deployment: start its processes, restart them", add_help=False)
    commands.add_parser("tree", help="look at a deployment that runs, and operate it", add_help=False)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code
