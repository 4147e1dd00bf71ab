"""``celery -A APP timeouts``: what applies, overrides for a while, and whether every handler has a timeout."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, exit_codes, reported
from orchestrator.core.plural import counted
from orchestrator.core.policies.run_times import ENOUGH
from orchestrator.core.policies.timeout_classes import NamedSeconds
from orchestrator.core.policies.timeout_overrides import Override
from orchestrator.core.policies.timeouts import most_specific
from orchestrator.core.times import age, duration
from orchestrator.sending.address import Address

_CHECK_CODES = exit_codes(ok="every handler has a timeout", failed="a handler has none")


@click.group(name="timeouts", epilog=EXIT_CODES)
def timeouts() -> None:
    """Show timeouts, override them for a while, and find handlers without one."""


@timeouts.command(cls=CeleryCommand, name="list", epilog=EXIT_CODES)
@as_json_option
@click.pass_context
@reported
def list_timeouts(context: click.Context, as_json: bool) -> None:
    """List the timeout of each message and task, where it comes from, and what overrides it."""
    orchestrator = orchestrator_of(context)
    overrides = {one.name: one for one in orchestrator.timeouts.overrides()}
    rows = [(address, _override_of(address, overrides)) for address in orchestrator.timeouts.addresses()]
    factor = orchestrator.settings.timeout_factor
    if as_json:
        print_document(
            {
                "timeouts": [_document(address, override) for address, override in rows],
                "overrides": [_override(one) for one in overrides.values()],
                "timeout_factor": factor,
            }
        )
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table, print_text

    out = console(context)
    print_table(
        out,
        "Timeouts",
        ("task", "timeout", "from", "deadline", "overridden", "ends in", "by"),
        [
            (
                address.task,
                _shown(address.policy.timeout_s),
                address.policy.sources.get("timeout_s", ""),
                _shown(address.policy.deadline_s),
                "" if override is None else f"{_shown(override.timeout_s)} ({override.name})",
                "" if override is None else age(override.left_s),
                "" if override is None else override.by,
            )
            for address, override in rows
        ],
        drop=("by", "deadline"),
    )
    if factor != 1:
        print_text(out, "Factor", f"  all timeouts and deadlines are multiplied by {factor:g}")


@timeouts.command(cls=CeleryCommand, name="set", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("timeout")
@click.option(
    "--for",
    "for_s",
    metavar=METAVAR,
    type=Duration(),
    required=True,
    cls=CeleryOption,
    help="End the override after this time; at most 30d.",
)
@as_json_option
@click.pass_context
@reported
def set_timeout(context: click.Context, name: str, timeout: str, for_s: float, as_json: bool) -> None:
    """Override the timeout of NAME (a message, agent, task or pattern) by TIMEOUT, for a while.

    TIMEOUT is a duration or a class of timeouts. It holds for attempts that begin within a second from now, on all
    workers, until it ends by Redis' clock. Deadlines hold all the same.
    """
    override = orchestrator_of(context).timeouts.override(name, _timeout(timeout), for_s=for_s)
    if as_json:
        print_document(_override(override))
    else:
        click.echo(f"{override.name}: {override.timeout_s:g} s for {age(for_s)}")


@timeouts.command(cls=CeleryCommand, name="clear", epilog=EXIT_CODES)
@click.argument("name", required=False)
@click.option("--all", "of_all", is_flag=True, cls=CeleryOption, help="End all overrides.")
@as_json_option
@click.pass_context
@reported
def clear(context: click.Context, name: str | None, of_all: bool, as_json: bool) -> None:
    """End the override of NAME, or with --all of every name."""
    if (name is None) is not of_all:
        raise Stop("allowed: either NAME or --all", ExitCode.CALLER)
    cleared = orchestrator_of(context).timeouts.clear(name)
    if as_json:
        print_document({"cleared": cleared})
    else:
        click.echo(f"{counted(cleared, 'override')} cleared")


@timeouts.command(cls=CeleryCommand, name="suggest", epilog=EXIT_CODES)
@click.argument("name", required=False)
@click.option(
    "--margin", type=float, default=2.0, show_default=True, cls=CeleryOption, help="Times the 99th percentile."
)
@as_json_option
@click.pass_context
@reported
def suggest(context: click.Context, name: str | None, margin: float, as_json: bool) -> None:
    """Suggest timeouts from the run times of the last 7 days, of all or of NAME."""
    suggestions = orchestrator_of(context).timeouts.suggest(name, margin=margin)
    if as_json:
        print_document({"suggestions": [asdict(one) for one in suggestions], "margin": margin})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        f"Suggested timeouts: {margin:g} times the 99th percentile",
        ("task", "handled", "timed out", "p50", "p99", "longest", "timeout", "suggested"),
        [
            (
                one.task,
                one.handled,
                one.timed_out,
                _measured(one.p50_s),
                _measured(one.p99_s) or ("more than 1 % timed out" if one.timed_out else ""),
                _measured(one.longest_s),
                _shown(one.timeout_s),
                f"{one.suggested_s:g} s" if one.suggested_s is not None else f"fewer than {ENOUGH} attempts",
            )
            for one in suggestions
        ],
        drop=("p50", "longest"),
    )


@timeouts.command(cls=CeleryCommand, name="check", epilog=_CHECK_CODES)
@as_json_option
@click.pass_context
@reported
def check(context: click.Context, as_json: bool) -> None:
    """Exit with 1 if a handler of this app has no timeout. Needs no Redis, so it can gate a build.

    A deadline is not enough: replayed dead letters and steps of workflows have none. An override ends.
    """
    missing = orchestrator_of(context, connect=False).timeouts.missing()
    if as_json:
        print_document({"without_timeout": [address.task for address in missing]})
    else:
        for address in missing:
            deadline_s = address.policy.deadline_s
            beside = f" (deadline_s={deadline_s:g} does not bound a replay)" if deadline_s is not None else ""
            click.echo(f"{address.task}: no timeout{beside}; allowed: timeout_s, timeouts, or default_timeout_s")
        if not missing:
            click.echo("every handler has a timeout")
    if missing:
        context.exit(int(ExitCode.NOT_HANDLED))


def _timeout(text: str) -> float | str:
    try:
        return duration(text)
    except (ValueError, OverflowError):
        return text


def _override_of(address: Address, overrides: dict[str, Override]) -> Override | None:
    names = (address.task, address.agent) if address.agent else (address.task,)
    return most_specific(overrides, names)


def _override(override: Override) -> dict[str, Any]:
    return {
        "name": override.name,
        "timeout_s": override.timeout_s,
        "at_ms": override.at_ms,
        "until_ms": override.until_ms,
        "left_s": override.left_s,
        "by": override.by,
    }


def _document(address: Address, override: Override | None) -> dict[str, Any]:
    policy = address.policy
    named = {"class": policy.timeout_s.name} if isinstance(policy.timeout_s, NamedSeconds) else {}
    return {
        "task": address.task,
        "agent": address.agent,
        "message": address.message,
        "timeout_s": policy.timeout_s,
        "source": policy.sources.get("timeout_s", "default"),
        **named,
        "deadline_s": policy.deadline_s,
        "override": None if override is None else _override(override),
        "effective_s": policy.timeout_s if override is None else override.timeout_s,
    }


def _measured(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g} s"


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    return f"{seconds:g} s" + (f" ({seconds.name})" if isinstance(seconds, NamedSeconds) else "")
