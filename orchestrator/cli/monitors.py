"""``celery -A APP monitors``: list and count monitors, and find and repair leaked ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, limit_option, print_document
from orchestrator.cli.reported_errors import EXIT_CODES, ExitCode, Stop, exit_codes, reported
from orchestrator.core.plural import counted
from orchestrator.core.times import age
from orchestrator.monitors.leak import Leak, LeakKind

#: The exit codes of `monitors leaks`.
_LEAK_CODES = exit_codes(ok="there are no leaks, or all were repaired", failed="there are leaks that were not repaired")


@click.group(name="monitors", epilog=EXIT_CODES)
def monitors() -> None:
    """List and count monitors, and find and repair leaked ones."""


@monitors.command(cls=CeleryCommand, name="list", epilog=EXIT_CODES)
@click.option("--owner", metavar="NAME", cls=CeleryOption, help="List monitors of this incarnation, session or agent.")
@click.option("--target", metavar="NAME", cls=CeleryOption, help="List monitors on this agent or incarnation.")
@click.option("--tag", metavar="TEXT", cls=CeleryOption, help="List monitors with this text as their tag.")
@limit_option(100_000)
@as_json_option
@click.pass_context
@reported
def list_monitors(
    context: click.Context, owner: str | None, target: str | None, tag: str | None, limit: int, as_json: bool
) -> None:
    """List monitors, oldest first, with whether owner and target are alive."""
    chosen: dict[str, Any] = {} if tag is None else {"tag": tag}
    found = orchestrator_of(context).monitors.list(owner=owner, target=target, limit=limit, **chosen)
    if as_json:
        print_document({"monitors": [asdict(entry) for entry in found]})
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        f"Monitors: {len(found)}" + (" (there may be more)" if len(found) == limit else ""),
        ("ref", "owner", "target", "tag", "age", "alive"),
        [
            (
                entry.ref,
                entry.owner,
                entry.target,
                entry.tag if isinstance(entry.tag, str) else repr(entry.tag),
                age(entry.age_s),
                _alive(entry.owner_alive, entry.target_alive),
            )
            for entry in found
        ],
        fold=("tag",),
        drop=("tag",),
    )


def _alive(owner: bool, target: bool) -> str:
    match owner, target:
        case True, True:
            return "both"
        case True, False:
            return "owner"
        case False, True:
            return "target"
        case _:
            return "neither"


@monitors.command(cls=CeleryCommand, name="stats", epilog=EXIT_CODES)
@as_json_option
@click.pass_context
@reported
def show_stats(context: click.Context, as_json: bool) -> None:
    """Show numbers of monitors: active, created, ended and why."""
    stats = asdict(orchestrator_of(context).monitors.stats())
    if as_json:
        print_document(stats)
        return
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_fields

    print_fields(console(context), "Monitors", {name.replace("_", " "): number for name, number in stats.items()})


@monitors.command(cls=CeleryCommand, name="leaks", epilog=_LEAK_CODES)
@click.option(
    "--age",
    "age_s",
    metavar=METAVAR,
    type=Duration(),
    cls=CeleryOption,
    help="Report monitors older than this too. [default: the setting monitor_leak_age_s]",
)
@click.option("--sweep", is_flag=True, cls=CeleryOption, help="Repair the leaks; old monitors only with --old.")
@click.option("--old", is_flag=True, cls=CeleryOption, help="With --sweep: remove old monitors too.")
@click.option(
    "--dry-run", is_flag=True, cls=CeleryOption, help="With --sweep: print what would be repaired, and repair nothing."
)
@as_json_option
@click.pass_context
@reported
def find_leaks(
    context: click.Context, age_s: float | None, sweep: bool, old: bool, dry_run: bool, as_json: bool
) -> None:
    """Find leaked monitors: each with its proof, where it was created, and how it is repaired."""
    if (old or dry_run) and not sweep:
        raise Stop("--old and --dry-run need --sweep", ExitCode.CALLER)
    store = orchestrator_of(context).monitors
    leaks = store.find_leaks(age_s)
    wanted = [leak for leak in leaks if sweep and (old or leak.kind is not LeakKind.OLD)]
    repaired = [] if dry_run else store.repair_leaks(wanted)
    if as_json:
        would = {"would_repair": [leak.ref for leak in wanted]} if dry_run else {}
        documents = [{**asdict(leak), "repair": leak.repair, "repaired": leak in repaired} for leak in leaks]
        print_document({"leaks": documents, "repaired": len(repaired), **would})
    else:
        _show(context, leaks)
        if sweep:
            click.echo(
                f"{counted(len(wanted), 'leak')} would be repaired"
                if dry_run
                else f"{counted(len(repaired), 'leak')} repaired"
            )
    if len(repaired) < len(leaks):
        context.exit(int(ExitCode.NOT_HANDLED))


def _show(context: click.Context, leaks: list[Leak]) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    print_table(
        console(context),
        f"Leaked monitors: {len(leaks)}",
        ("ref", "kind", "owner", "target", "tag", "age", "proof", "created at", "repair"),
        [
            (
                leak.ref,
                leak.kind.value,
                leak.owner,
                leak.target,
                leak.tag if isinstance(leak.tag, str) else repr(leak.tag),
                age(leak.age_s),
                leak.detail,
                leak.origin.splitlines()[0] if leak.origin else "",
                leak.repair,
            )
            for leak in sorted(leaks, key=lambda leak: leak.ref)
        ],
        fold=("tag", "proof", "created at", "repair"),
        drop=("tag", "created at", "age", "owner", "repair"),
    )
