"""``orchestrator tree``: looks at a deployment that runs, and operates it."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from orchestrator.supervisor.state_directory import DEFAULT, SOCKET, short_path, user_of_peer

_EXIT_CODES = """
Exit codes:
  0  done
  1  what was asked for has not come about
  2  the command line is wrong, a child is unknown, or the tree is busy
  4  no supervisor runs with this state directory

ID is a path (agents/billing.1), what there are copies of (agents/billing), or an id that is unique.
"""

_WATCH_EVERY_S = 1.0
_ROLL_LOOK_S = 0.2
_LEDGER_TIMEOUT_S = 30.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="orchestrator tree",
        description="Show the tree that `orchestrator supervise` runs here, or operate it.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--state-dir", type=Path, default=DEFAULT, metavar="DIR", help=f"its directory ({DEFAULT})")
    command.add_argument("--json", action="store_true", help="print the answer as JSON")
    command.add_argument("--watch", action="store_true", help="show the tree again every second")
    operations = command.add_subparsers(dest="operation")
    for name, text in {
        "start": "start a child that is stopped or has ended",
        "stop": "stop a child; it stays stopped until it is started",
        "reset": "start a child or a supervisor afresh that has failed, or is on hold",
        "remove": "stop a child and forget it",
        "why": "how its runs have ended, with their last lines and what became of their messages",
    }.items():
        operations.add_parser(name, help=text).add_argument("id", metavar="ID")
    restart = operations.add_parser("restart", help="restart a child, or all")
    restart.add_argument("id", metavar="ID", nargs="?", default="")
    restart.add_argument(
        "--rolling", action="store_true", help="one worker after the other, each when the last is ready"
    )
    logs = operations.add_parser("logs", help="the last lines of a child")
    logs.add_argument("id", metavar="ID")
    logs.add_argument("--lines", type=int, default=50)
    scale = operations.add_parser("scale", help="have so many copies of a child: agents/billing=5")
    scale.add_argument("scale", metavar="ID=COUNT")
    add = operations.add_parser("add", help='a further child: add agents \'{ id = "x", kind = "worker" }\'')
    add.add_argument("parent", metavar="SUPERVISOR", help='"" for the root')
    add.add_argument("child", metavar="TABLE", help="as in orchestrator.toml")
    return command


class NoSupervisor(Exception):
    """None answers."""


class Client:
    """A connection to the supervisor."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._socket.connect(short_path(here, SOCKET))
            finally:
                os.close(here)
        except OSError as error:
            raise NoSupervisor(f"no supervisor runs with {directory}: {error.strerror}") from error
        user = user_of_peer(self._socket)
        if os.getuid() not in (0, user) and user != 0:
            # Its answers are trusted: they name the directory from which the app, and its ledger, is read.
            self._socket.close()
            allowed = f"allowed: one that runs as user {os.getuid()}"
            raise NoSupervisor(f"the supervisor in {directory} runs as user {user}; {allowed}")
        self._file = self._socket.makefile("rb")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._file.readline()
        except OSError as error:
            raise NoSupervisor(str(error)) from error
        if not line:
            raise NoSupervisor("the supervisor has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(arguments: Sequence[str]) -> int:
    """Run ``orchestrator tree``; returns the exit code."""
    try:
        code = _run(arguments)
        print(end="", flush=True)
    except BrokenPipeError:
        # The reader, `head` for one, has read enough. Python would report the pipe again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _run(arguments: Sequence[str]) -> int:
    command = parser()
    options = command.parse_args(arguments)
    try:
        request = _request(options)
    except ValueError as error:
        command.error(str(error))
    try:
        client = Client(options.state_dir)
        ledgers = Ledgers(client) if request.get("rolling") else None
        if options.watch and options.operation is None:
            return _watch(client)
        answer = client.ask(**request)
        if "error" in answer:
            print(f"error: {answer['error']}", file=sys.stderr)
            return 2
        if ledgers is not None:
            return _roll(client, answer["done"], ledgers)
    except NoSupervisor as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    print(json.dumps(answer, indent=2) if options.json else "\n".join(_SHOWN.get(request["operation"], _done)(answer)))
    return 0


def _request(options: argparse.Namespace) -> dict[str, Any]:
    named = ("id", "rolling", "lines", "parent")
    request = {name: getattr(options, name) for name in named if hasattr(options, name)}
    request["operation"] = options.operation or "tree"
    if options.operation == "scale":
        name, _, count = options.scale.rpartition("=")
        if not name or not count.lstrip("-").isdecimal():
            raise ValueError(f"scale {options.scale}; allowed: ID=COUNT")
        request |= {"id": name, "count": int(count)}
    if options.operation == "add":
        try:
            request["child"] = tomllib.loads(f"child = {options.child}")["child"]
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"TABLE: {error}") from error
    return request


def _watch(client: Client) -> int:
    try:
        while True:
            text = "\n".join(_tree(client.ask(operation="tree")))
            print(f"\x1b[2J\x1b[H{text}" if sys.stdout.isatty() else text, flush=True)
            sleep(_WATCH_EVERY_S)
    except KeyboardInterrupt:
        return 0


class Ledgers:
    """The ledgers of a tree's apps, before something was done and after."""

    def __init__(self, client: Client) -> None:
        tree = client.ask(operation="tree")
        self._apps, self._directory = tree["apps"], tree["directory"]
        self._environment = {**os.environ, **client.ask(operation="environment")["environment"]}
        self._before = {app: self._read(app) for app in self._apps}

    def _read(self, app: str) -> dict[str, int] | None:
        command = [sys.executable, "-m", "celery", "-A", app, "ledger", "--json"]
        try:
            done = subprocess.run(
                command,
                cwd=self._directory,
                env=self._environment,
                capture_output=True,
                timeout=_LEDGER_TIMEOUT_S,
                check=False,
            )
            total: dict[str, int] = json.loads(done.stdout)["total"]
        except (OSError, ValueError, LookupError, subprocess.TimeoutExpired):
            return None
        return total

    def lines(self) -> list[str]:
        """A line for each app: what was lost, and what was settled twice since."""
        lines = []
        for app, before in self._before.items():
            now = self._read(app)
            if before is None or now is None:
                lines.append(f"{app}: the ledger could not be read: celery -A {app} ledger")
                continue
            handled, duplicated = now["handled"] - before["handled"], now["duplicated"] - before["duplicated"]
            lines.append(f"{app}: handled={handled} lost={now['lost']} duplicated={duplicated}")
        return lines


def _roll(client: Client, paths: list[str], ledgers: Ledgers) -> int:
    """Wait until all were restarted."""
    began = monotonic()
    left = len(paths)
    while True:
        rolling = client.ask(operation="tree")["rolling"]
        if len(rolling) < left:
            left = len(rolling)
            print(f"{len(paths) - left} of {len(paths)} restarted", flush=True)
        if not rolling:
            break
        sleep(_ROLL_LOOK_S)
    states = {row["path"]: row["state"] for row in client.ask(operation="tree")["children"]}
    bad = [path for path in paths if states.get(path) != "ready"]
    took = f"{len(paths)} restarted one by one in {monotonic() - began:.1f} s"
    print(f"{took}; not ready: {', '.join(bad)}" if bad else took)
    for line in ledgers.lines():
        print(line)
    return int(bool(bad))


def _tree(answer: dict[str, Any]) -> list[str]:
    """The tree as text."""
    lines = [f"{answer['source']}, process {answer['pid']}{', is being stopped' if answer['stopping'] else ''}"]
    for row in answer["children"][1:] or []:
        depth = row["path"].count("/")
        name = "  " * depth + row["path"].rpartition("/")[2]
        what = row.get("strategy") or f"{row.get('pid') or '-'}"
        detail = f"restarts {row['restarts']}" if row["restarts"] else ""
        if row.get("last_end") and row["restarts"]:
            detail += f", last end: {row['last_end']}"
        lines.append(f"{name:<28} {row['kind']:<10} {what:<12} {row['state']:<22} {detail}".rstrip())
    return lines


def _logs(answer: dict[str, Any]) -> list[str]:
    logs = answer["logs"]
    return [f"{path} | {line}" if len(logs) > 1 else line for path, lines in logs.items() for line in lines]


def _why(answer: dict[str, Any]) -> list[str]:
    lines = []
    for path, story in answer["why"].items():
        lines.append(f"{path}: {story['state']}")
        for end in story["ends"]:
            at = datetime.fromtimestamp(end["at_s"], UTC).strftime("%Y-%m-%d %H:%M:%S")
            asked = ", as asked" if end["asked_for"] else ""
            mail = f"; messages requeued: {end['requeued']}" if end.get("requeued") is not None else ""
            lines.append(f"  {at} process {end['pid']}: {end['how']}{asked}{mail}")
            lines += [f"    | {line}" for line in end["last_words"]]
        if not story["ends"]:
            lines.append("  no run has ended")
    return lines


def _done(answer: dict[str, Any]) -> list[str]:
    removed = answer.get("removed") or []
    lines = [", ".join(answer["done"]) or "the whole tree"] if answer["done"] or not removed else []
    return [*lines, *(f"removed: {path}" for path in removed)]


_SHOWN = {"tree": _tree, "logs": _logs, "why": _why}
