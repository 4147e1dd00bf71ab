"""The command ``orchestrator``. It imports only what its subcommand needs: Celery takes longer than a probe may."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from orchestrator.health.command import add_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``orchestrator``; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["doctor"]:
        from orchestrator.cli import doctor

        return doctor.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="orchestrator",
        description="Supervision for Celery: what needs no app.",
        epilog="For an app: celery -A APP agents|dead-letters|delivery|doctor|ledger|monitors|policies|send",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('celery-orchestrator')}")
    commands = parser.add_subparsers(dest="command", required=True)
    add_commands(commands)
    commands.add_parser("doctor", help="whether Redis is fit: version, eviction, persistence, rights", add_help=False)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code
