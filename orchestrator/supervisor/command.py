"""``orchestrator supervise``: runs a deployment in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from selectors import EVENT_WRITE

from orchestrator.supervisor.check import check
from orchestrator.supervisor.control import Control
from orchestrator.supervisor.definition import Definition, InvalidDefinition
from orchestrator.supervisor.export import FORMATS
from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.operations import Operations
from orchestrator.supervisor.output import Console
from orchestrator.supervisor.proc import shows_this_namespace
from orchestrator.supervisor.reading import DEFAULT_FILES, default_tree, read
from orchestrator.supervisor.state_directory import DEFAULT, StateDirectory, StateDirectoryTaken
from orchestrator.supervisor.tree_process import TreeProcess

_STDIN, _STDOUT, _STDERR = 0, 1, 2

_EXIT_CODES = """
Exit codes:
  0  stopped as it was asked to, or all children have done their work
  1  the tree has ended because too many children ended, or none of them can run
  2  the command line or the definition is wrong, or another supervisor runs with the same state directory

orchestrator supervise export systemd|compose|supervisord [DEFINITION] prints the same processes for these.
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
        definition = _definition(options)
    except InvalidDefinition as error:
        for problem in error.problems:
            print(f"error: {error.source}: {problem}", file=sys.stderr)
        return 2
    # Probes, the death recorder and `--check` look where the children are.
    os.environ.update(definition.environment)
    for warning in definition.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if export is not None:
        sys.stdout.write(export(definition))
        return 0
    if options.check:
        return check(definition)
    state = state_of(options.state_dir, definition.directory)
    return _supervise(definition, state, owned=options.until_stdin_closes)


def _exported(arguments: list[str]) -> Callable[[Definition], str] | None:
    """Take ``export FORMAT`` off the command line, if it is there."""
    if arguments[:1] != ["export"]:
        return None
    name = arguments[1] if len(arguments) > 1 else ""
    if name not in FORMATS:
        parser().error(f"export {name}; allowed: {', '.join(FORMATS)}")
    del arguments[:2]
    return FORMATS[name]


def state_of(given: Path | None, directory: Path) -> Path:
    """The state directory."""
    return given if given is not None else directory / DEFAULT


def _definition(options: argparse.Namespace) -> Definition:
    path: Path | None = options.definition
    here = Path.cwd()
    if path is None and options.app is not None:
        return default_tree(options.app, state_of(options.state_dir, here).absolute(), here)
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
