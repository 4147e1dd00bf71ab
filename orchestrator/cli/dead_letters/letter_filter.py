"""The options of `dead-letters` that select letters, and those for the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryOption

from orchestrator.cli.dead_letters.known_names import check_names
from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.reported_errors import ExitCode, Stop
from orchestrator.deadletters.criteria import STATES
from orchestrator.deadletters.selection import Selection

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("agent", "message", "error", "reason", "group", "older_than_s", "newer_than_s", "metadata", "text", "state")


def filter_options(command: F) -> F:
    """Add the filter's options; a letter must match all that are given."""
    for option in reversed(
        (
            click.option("--agent", cls=CeleryOption, help="Select letters of this agent."),
            click.option("--message", cls=CeleryOption, help="Select letters of this message or plain task."),
            click.option(
                "--error", cls=CeleryOption, help="Select letters with this error type, such as TimeoutError."
            ),
            click.option(
                "--reason", cls=CeleryOption, help="Select letters with this reason, such as 'retries exhausted'."
            ),
            click.option(
                "--group", metavar="FINGERPRINT", cls=CeleryOption, help="Select letters of this group (see `groups`)."
            ),
            click.option(
                "--older-than",
                "older_than_s",
                type=Duration(),
                metavar=METAVAR,
                cls=CeleryOption,
                help="Select letters older than this.",
            ),
            click.option(
                "--newer-than",
                "newer_than_s",
                type=Duration(),
                metavar=METAVAR,
                cls=CeleryOption,
                help="Select letters newer than this.",
            ),
            click.option(
                "--metadata",
                multiple=True,
                metavar="NAME=VALUE",
                cls=CeleryOption,
                help="Select letters with this metadata; VALUE may be JSON.",
            ),
            click.option(
                "--text", cls=CeleryOption, help="Select letters that contain this text, as shown, regardless of case."
            ),
            click.option(
                "--state",
                type=click.Choice(STATES),
                default="open",
                show_default=True,
                cls=CeleryOption,
                help="Select letters in this state.",
            ),
        )
    ):
        command = option(command)
    return command


def audit_options(command: F) -> F:
    """Add the options for the audit log."""
    command = click.option("--why", default="", cls=CeleryOption, help="Record this reason in the audit log.")(command)
    return click.option("--who", cls=CeleryOption, help="Record this operator in the audit log. [default: user@host]")(
        command
    )


def selection(orchestrator: Orchestrator, options: dict[str, Any]) -> Selection:
    """The letters that the options select; removes its options from ``options``.

    Raises:
        InvalidPolicy: a value is not allowed, or a name is unknown.
        UnknownAgent: the agent is unknown.
        Stop: ``--metadata`` is not NAME=VALUE.
    """
    given = {name: options.pop(name) for name in _NAMES}
    metadata = {}
    for pair in given.pop("metadata"):
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise Stop(f"--metadata {pair!r}: not NAME=VALUE", ExitCode.CALLER)
        metadata[name] = _value(text)
    chosen = orchestrator.dead_letters.query(**given, metadata=metadata or None)
    check_names(orchestrator, given)
    return chosen


def require_only_id(options: Mapping[str, Any], every: bool) -> None:
    """Refuse an ID together with a filter, which would be ignored."""
    given = {name for name in _NAMES if options[name] not in (None, ())}
    if every or given - {"state"} or options["state"] != "open":
        raise Stop("an ID cannot be combined with a filter or --all", ExitCode.CALLER)


def require_selection(chosen: Selection, every: bool) -> None:
    """Refuse to change all letters without ``--all``."""
    if not chosen.criteria.selects and not every:
        raise Stop("no letters selected; give an ID, a filter, or --all", ExitCode.CALLER)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
