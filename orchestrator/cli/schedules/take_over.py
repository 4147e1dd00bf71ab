"""``celery -A APP schedules import``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.reported_errors import ExitCode, Stop, exit_codes, reported
from orchestrator.core.times import moment

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.schedules.importing.taking_over import TakenOver

_SOURCES = ("redbeat", "django-celery-beat", "celerybeat-schedule", "crontab", "export")


@click.command(
    cls=CeleryCommand, name="import", epilog=exit_codes(failed="some were left out; the others were imported")
)
@click.option("--from", "source", type=click.Choice(_SOURCES), required=True, cls=CeleryOption, help="What it reads.")
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(dir_okay=False))
@click.option(
    "--url",
    metavar="URL",
    cls=CeleryOption,
    help="Redis of redbeat, instead of the app's `redbeat_redis_url` or broker.",
)
@click.option(
    "--prefix", metavar="TEXT", cls=CeleryOption, help="`redbeat_key_prefix`, instead of the app's, or `redbeat:`."
)
@click.option("--dry-run", is_flag=True, cls=CeleryOption, help="Say what would be done, and change nothing.")
@as_json_option
@click.pass_context
@reported
def import_schedules(
    context: click.Context,
    source: str,
    path: str | None,
    url: str | None,
    prefix: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take over the schedules of another scheduler, each from when it last ran there.

    Stop that scheduler first, so that it fires nothing meanwhile. Schedules that exist already are left as they are, so
    an import can be repeated. FILE is the dump of `manage.py dumpdata django_celery_beat`, the shelve file of
    `celery beat`, a crontab whose commands are `celery call`, or what `schedules export` wrote.
    """
    orchestrator = orchestrator_of(context)
    if (path is None) is not (source == "redbeat"):
        raise Stop(f"--from {source} {'reads Redis, and takes no FILE' if path else 'needs a FILE'}", ExitCode.CALLER)
    # Here, so that `celery worker` does not load it.
    from orchestrator.schedules.importing.found import UnreadableSource

    try:
        found = list(_taken(orchestrator, context.obj.app, source, path, (url, prefix), dry_run))
    except UnreadableSource as error:
        raise Stop(str(error), ExitCode.CALLER) from None
    if as_json:
        print_document({"dry_run": dry_run, "schedules": [asdict(one) for one in found]})
    else:
        _print(context, found, dry_run)
    if any(one.action == "left out" for one in found):
        context.exit(int(ExitCode.NOT_HANDLED))


def _taken(
    orchestrator: Orchestrator,
    app: Any,
    source: str,
    path: str | None,
    redbeat: tuple[str | None, str | None],
    is_dry: bool,
) -> Iterator[TakenOver]:
    from orchestrator.schedules.importing.exported import read_export
    from orchestrator.schedules.importing.found import LeftOut
    from orchestrator.schedules.importing.taking_over import TakenOver, add_definition, take_over

    schedules = orchestrator.schedules
    if source == "export":
        for one in read_export(str(path)):
            if isinstance(one, LeftOut):
                yield TakenOver(one.name, "left out", one.why)
            else:
                definition, last_ms, paused = one
                yield add_definition(schedules, definition, None, last_ms, paused, is_dry=is_dry)
        return
    yield from take_over(app, schedules, _read(app, source, path, redbeat), source=source, is_dry=is_dry)


def _read(app: Any, source: str, path: str | None, redbeat: tuple[str | None, str | None]) -> Any:
    if source == "redbeat":
        return _read_redbeat(app, *redbeat)
    if source == "celerybeat-schedule":
        from orchestrator.schedules.importing.celerybeat_schedule import read_shelf

        return read_shelf(str(path))
    if source == "django-celery-beat":
        from orchestrator.schedules.importing.django_celery_beat import read_dump

        return read_dump(str(path))
    from orchestrator.schedules.importing.crontab_file import read_crontab

    return read_crontab(str(path))


def _read_redbeat(app: Any, url: str | None, prefix: str | None) -> Iterator[Any]:
    from redis import Redis
    from redis.exceptions import RedisError

    from orchestrator.core.checks.broker_url import quoted
    from orchestrator.core.errors import BrokerUnavailable
    from orchestrator.schedules.importing.redbeat import DEFAULT_PREFIX, read_redbeat

    url = url or app.conf.get("redbeat_redis_url") or app.conf.broker_read_url or app.conf.broker_url
    prefix = prefix or app.conf.get("redbeat_key_prefix") or DEFAULT_PREFIX
    try:
        with Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            yield from read_redbeat(client, prefix)
    except ValueError as error:
        raise Stop(f"--url {quoted(url)}: {error}", ExitCode.CALLER) from None
    except RedisError as error:
        raise BrokerUnavailable(quoted(url), error) from error


def _print(context: click.Context, found: list[TakenOver], is_dry: bool) -> None:
    from orchestrator.cli.output.tables import Tone, Toned, console, print_table

    tones = {"added": Tone.GOOD, "exists": Tone.WARNING, "left out": Tone.BAD}
    print_table(
        console(context),
        f"{'To be imported' if is_dry else 'Imported'}: {sum(one.action == 'added' for one in found)} of {len(found)}",
        ("name", "became", "last run", "next", "note"),
        [
            (
                one.name,
                Toned("to be added" if is_dry and one.action == "added" else one.action, tones[one.action]),
                "" if one.last_run_ms is None else moment(one.last_run_ms),
                "" if one.next_ms is None else moment(one.next_ms),
                one.note,
            )
            for one in found
        ],
        fold=("note", "name"),
    )
