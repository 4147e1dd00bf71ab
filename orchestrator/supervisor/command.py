"""``orchestrator supervise``: runs a deployment in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from selectors import EVENT_WRITE

from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.operator.control import Control
from orchestrator.supervisor.operator.operations import Operations
from orchestrator.supervisor.processes.output import Console
from orchestrator.supervisor.processes.proc import shows_this_namespace
from orchestrator.supervisor.reading.definition import Definition, InvalidDefinition, Kind
from orchestrator.supervisor.reading.read import DEFAULT_FILES, default_tree, read
from orchestrator.supervisor.state_directory import DEFAULT, StateDirectory, StateDirectoryTaken
from orchestrator.supervisor.tree_process import TreeProcess

_STDIN, _STDOUT, _STDERR = 0, 1, 2

_EXIT_CODES = """
Exit codes:
  0  stopped as it was asked to, or all children have done their work
  1  the tree has ended because too many children ended, or none of them can run
  2  the command line or the definition is wrong, or another supervisor runs with the same state directory

orchestrator supervise export systemd|compose|supervisord [DEFINITION] prints the same processes for these;
--to DIR writes the files there, as in: orchestrator supervise export systemd --to /etc/systemd/system
SIGTERM or Ctrl-C stops the children in reverse order; a second one hurries, a third one kills.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="orchestrator supervise",
        description="Run the processes of a deployment: start them in order, restart them, leave none behind.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "definition", nargs="?", type=Path, help="orchestrator.toml or a Procfile (default: the one in this directory)"
    )
    command.add_argument(
        "-A",
        "--app",
        metavar="APP",
        help="the Celery app of children that name none; without a definition: a monitor manager, beat, and workers",
    )
    command.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="kill all when standard input closes: for programs that start a supervisor of their own",
    )
    command.add_argument("--to", type=Path, metavar="DIR", help="with export: write the files there")
    command.add_argument("--check", action="store_true", help="list what is wrong, start nothing")
    command.add_argument("--state-dir", type=Path, metavar="DIR", help=f"lock and control socket (default: {DEFAULT})")
    return command


def main(arguments: Sequence[str]) -> int:
    """Run ``orchestrator supervise``; returns the exit code."""
    if sys.platform != "linux":
        print("error: orchestrator supervise needs Linux", file=sys.stderr)
        return 2
    _open_standard_files()
    arguments = list(arguments)
    export = _exported(arguments)
    options = parser().parse_args(arguments)
    try:
        definition = _definition(options, export)
    except InvalidDefinition as error:
        for problem in error.problems:
            print(f"error: {error.source}: {problem}", file=sys.stderr)
        return 2
    if options.to is not None and export is None:
        parser().error("--to; allowed: with export")
    variables = [] if export is None else _left_behind(definition)
    # Probes, the death recorder and `--check` look where the children are.
    os.environ.update(definition.environment)
    for warning in definition.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if export is not None:
        return _export(definition, export, options.to, variables)
    if options.check:
        from orchestrator.supervisor.reading.check import check

        return check(definition)
    if os.geteuid() == 0 and not os.environ.get("C_FORCE_ROOT") and _has_worker(definition):
        text = "the workers run as root, which Celery advises against; allowed: another user, or C_FORCE_ROOT=1"
        print(f"warning: {text}", file=sys.stderr)
    state = state_of(options.state_dir, definition.directory)
    return _supervise(definition, state, owned=options.until_stdin_closes)


def _has_worker(definition: Definition) -> bool:
    return any(command.kind is Kind.WORKER for command in definition.commands.values())


def _exported(arguments: list[str]) -> str | None:
    """Take ``export FORMAT`` off the command line, if it is there; returns the format."""
    if arguments[:1] != ["export"]:
        return None
    from orchestrator.supervisor.export.formats import FORMATS

    name = arguments[1] if len(arguments) > 1 else ""
    if name not in FORMATS:
        parser().error(f"export {name}; allowed: {', '.join(FORMATS)}")
    del arguments[:2]
    return name


def _left_behind(definition: Definition) -> list[str]:
    """Variables of this shell that a deployment reads, and that an export does not hold: they may be secrets."""
    return sorted(
        name
        for name in os.environ
        if name.startswith(("ORCHESTRATOR_", "CELERY_")) and name not in definition.environment
    )


def _export(definition: Definition, name: str, directory: Path | None, variables: Sequence[str]) -> int:
    from orchestrator.supervisor.export.compose import unreachable_brokers
    from orchestrator.supervisor.export.formats import FORMATS

    files = FORMATS[name](definition)
    warnings = list(unreachable_brokers(definition, _brokers(definition))) if name == "compose" else []
    if variables:
        warnings.append(f"set here, but not in the export: {', '.join(variables)}; name them in its environment")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if directory is None:
        for number, (file, text) in enumerate(files.items()):
            heading = f"{'' if number == 0 else chr(10)}# {file}\n" if len(files) > 1 else ""
            sys.stdout.write(heading + text)
        return 0
    try:
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
            print(directory / file)
    except OSError as error:
        print(f"error: --to {directory}: {error}", file=sys.stderr)
        return 2
    return 0


def _brokers(definition: Definition) -> dict[str, str]:
    """The broker of each app whose broker its workers' environment does not name."""
    from orchestrator.supervisor.reading.asked_app import NotImported, broker_of

    brokers = {}
    for app in definition.apps():
        with contextlib.suppress(NotImported):
            brokers[app] = broker_of(app, definition.directory)
    return brokers


def state_of(given: Path | None, directory: Path) -> Path:
    """The state directory."""
    return given if given is not None else directory / DEFAULT


def _definition(options: argparse.Namespace, export: str | None) -> Definition:
    path: Path | None = options.definition
    here = Path.cwd()
    if path is None and options.app is not None:
        state = state_of(options.state_dir, here).absolute()
        # No container reaches what listens at this host's loopback.
        return default_tree(options.app, state, here, may_listen=export != "compose")
    if path is None:
        path = next((Path(name) for name in DEFAULT_FILES if Path(name).is_file()), None)
    if path is None:
        nothing = f"nothing to run; allowed: -A APP, or a file: {' or '.join(DEFAULT_FILES)}"
        raise InvalidDefinition("orchestrator supervise", [nothing])
    return read(path, state_of(options.state_dir, path.absolute().parent).absolute(), options.app)


def _open_standard_files() -> None:
    """Have 0, 1 and 2 be files: those that were closed would be the next pipes that are opened."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= _STDERR:
        descriptor = os.dup(descriptor)
    os.close(descriptor)


def _supervise(definition: Definition, path: Path, *, owned: bool) -> int:
    if not shows_this_namespace():
        print("error: /proc is that of another PID namespace; mount its own: unshare --mount-proc", file=sys.stderr)
        return 2
    try:
        state = StateDirectory(path)
    except (OSError, StateDirectoryTaken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    loop = Loop()
    console = Console(_STDOUT, colours=os.isatty(_STDOUT) and not os.environ.get("NO_COLOR"))

    def on_waiting(there_is: bool) -> None:
        if not there_is:
            loop.off(console.descriptor)
            return
        try:
            loop.on(console.descriptor, console.flush, EVENT_WRITE)
        except PermissionError:
            # A plain file always has room.
            loop.after(0, console.drain)

    console.on_waiting = on_waiting
    tree = TreeProcess(definition, state, loop, console)
    if owned:
        tree.end_with(_STDIN)
    control = Control(state, loop, Operations(tree))
    try:
        return tree.run()
    finally:
        control.close()
        console.drain()
        state.close()
