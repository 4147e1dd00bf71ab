"""The options by which `dead-letters` is told which letters are meant, and who acts why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryOption

from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.known_names import check_names
from orchestrator.cli.reported_errors import ExitCode, Stop
from orchestrator.deadletters.criteria import STATES
from orchestrator.deadletters.selection import Selection

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("agent", "message", "error", "reason", "group", "older_than_s", "newer_than_s", "metadata", "text", "state")


def filter_options(command: F) -> F:
    """Adds the filter's options; all that is given must hold."""
    for option in reversed(
        (
            click.option("--agent", cls=CeleryOption, help="Letters of this agent."),
            click.option("--message", cls=CeleryOption, help="Of this message, or of this plain task."),
            click.option("--error", cls=CeleryOption, help="With this type of error, as TimeoutError."),
            click.option("--reason", cls=CeleryOption, help="With this reason, as 'retries exhausted'."),
            click.option("--group", metavar="FINGERPRINT", cls=CeleryOption, help="Of this group (see `groups`)."),
            click.option("--older-than", "older_than_s", type=Duration(), metavar=METAVAR, cls=CeleryOption),
            click.option("--newer-than", "newer_than_s", type=Duration(), metavar=METAVAR, cls=CeleryOption),
            click.option(
                "--metadata", multiple=True, metavar="NAME=VALUE", cls=CeleryOption, help="VALUE may be JSON."
            ),
            click.option("--text", cls=CeleryOption, help="In what is shown of the letter, in whatever case."),
            click.option("--state", type=click.Choice(STATES), default="open", show_default=True, cls=CeleryOption),
        )
    ):
        command = option(command)
    return command


def act_options(command: F) -> F:
    """Adds the options for the record of acts."""
    command = click.option("--why", default="", cls=CeleryOption, help="Goes into the record of acts.")(command)
    return click.option("--who", cls=CeleryOption, help="Who acts; the user of this process by default.")(command)


def selection(orchestrator: Orchestrator, options: dict[str, Any]) -> Selection:
    """The letters that the options mean; takes its own out of ``options``.

    Raises:
        InvalidPolicy: a value makes no sense, or nobody knows the name.
        UnknownAgent: nobody knows the agent.
        Stop: metadata is not given as it should be.
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


def must_be_one(options: Mapping[str, Any], every: bool) -> None:
    """Refuses to act on the letter of an ID where a filter is given as well, which would be ignored."""
    given = {name for name in _NAMES if options[name] not in (None, ())}
    if every or given - {"state"} or options["state"] != "open":
        raise Stop("which letters? Give an ID, or a filter or --all, not both", ExitCode.CALLER)


def must_be_meant(chosen: Selection, every: bool) -> None:
    """Refuses to act on all letters unless that was said."""
    if not chosen.criteria.selects and not every:
        raise Stop("which letters? Give an ID, a filter, or --all", ExitCode.CALLER)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
