"""Options and output that the commands share which change dead letters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from celery.bin.base import CeleryOption

from orchestrator.cli.dead_letters.letter_filter import audit_options, filter_options
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import ExitCode, Stop

F = TypeVar("F", bound=Callable[..., Any])

all_option = click.option(
    "--all", "every", is_flag=True, cls=CeleryOption, help="Select all letters in the state given by --state."
)
optional_id = click.argument("letter_id", metavar="[ID]", required=False)


def dry_run_option(help_text: str) -> Any:
    """The option ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, cls=CeleryOption, help=help_text)


def yes_option() -> Any:
    """The option ``--yes``."""
    return click.option("--yes", is_flag=True, cls=CeleryOption, help="Do not ask for confirmation.")


def change_options(command: F) -> F:
    """Add the options that select letters (ID, ``--all``, a filter), those for the audit log, and ``--json``."""
    for option in (as_json_option, audit_options, filter_options, all_option, optional_id):
        command = option(command)
    return command


count_only_option = dry_run_option("Print how many letters are selected, and change nothing.")


def print_result(as_json: bool, document: dict[str, Any], text: str) -> None:
    """Print the document as JSON, or the text."""
    if as_json:
        print_document(document)
    else:
        click.echo(text)


def print_changed(as_json: bool, verb: str, ids: Sequence[str], text: str) -> None:
    """Print the ids of the changed letters and then ``text``; as JSON, their number under ``verb``, and their ids."""
    print_result(as_json, {verb: len(ids), "ids": list(ids)}, "\n".join([*ids, text]))


def confirm(question: str, would: str, yes: bool) -> None:
    """Ask the question unless ``yes``.

    Raises:
        Stop: the answer is no, or there is no terminal to ask at.
    """
    if yes:
        return
    if not can_ask():
        raise Stop(f"{would}; confirm with --yes, because stdin is not a terminal", ExitCode.CALLER)
    if not click.confirm(question, err=True):
        raise Stop("nothing was changed", ExitCode.NOT_HANDLED)


def can_ask() -> bool:
    """Whether stdin is a terminal."""
    return sys.stdin.isatty()
