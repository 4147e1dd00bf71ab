"""``orchestrator tree``: looks at a deployment that runs, and operates it."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from math import inf, nan
from pathlib import Path
from struct import pack
from time import monotonic, sleep
from typing import Any

from orchestrator.supervisor.operator.rolling_restart import Ledgers, Line, follow
from orchestrator.supervisor.operator.tree_following import Following
from orchestrator.supervisor.state_directory import DEFAULT, SOCKET, short_path, user_of_peer

_EXIT_CODES = """
Exit codes:
  0  done
  1  what was asked for has not come about
  2  the command line is wrong, a child is unknown, or the tree is busy
  4  no supervisor runs with this state directory, or it does not answer

ID is a path (agents/billing.1), what there are copies of (agents/billing), or an id that is unique.
"""

_WATCH_EVERY_S = 1.0
_TIMEOUT_S = 120.0

#: A supervisor that takes longer to answer is suspended, or hangs.
_ANSWER_S = 30.0
_NO_ANSWER = "the supervisor does not answer within {:g} s"

#: Operations after which the command waits for what they bring about.
_WAITED_FOR = ("start", "stop", "restart", "reset", "scale", "add", "remove")

#: What has not come about when the time is over, if it is not that a child is ready.
_GOALS = {"stop": "stopped", "remove": "removed", "scale": "ready or removed"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="orchestrator tree",
        description="Show the tree that `orchestrator supervise` runs here, or operate it.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(command)
    command.set_defaults(state_dir=DEFAULT, json=False)
    command.add_argument("--watch", action="store_true", help="show the tree again every second")
    operations = command.add_subparsers(dest="operation")
    for name, text in {
        "start": "start a child that is stopped or has ended",
        "stop": "stop a child; it stays stopped until it is started",
        "reset": "start a child or a supervisor afresh that has failed, or is on hold",
        "remove": "stop a child and forget it",
        "why": "how its runs have ended, with their last lines and what became of their messages",
    }.items():
        operation = _operation(operations, name, text)
        operation.add_argument("id", metavar="ID")
        if name in _WAITED_FOR:
            _add_waiting(operation)
    restart = _operation(operations, "restart", "restart a child, or all")
    restart.add_argument("id", metavar="ID", nargs="?", default="")
    restart.add_argument(
        "--rolling", action="store_true", help="one worker after the other, each when the last is ready"
    )
    _add_waiting(restart)
    logs = _operation(operations, "logs", "the last lines of a child")
    logs.add_argument("id", metavar="ID")
    logs.add_argument("--lines", type=int, default=50)
    scale = _operation(operations, "scale", "have so many copies of a child: agents/billing=5")
    scale.add_argument("scale", metavar="ID=COUNT")
    _add_waiting(scale)
    add = _operation(operations, "add", 'a further child: add agents \'{ id = "x", kind = "worker" }\'')
    add.add_argument("parent", metavar="SUPERVISOR", help='"" for the root')
    add.add_argument("child", metavar="TABLE", help="as in orchestrator.toml")
    _add_waiting(add)
    return command


def _operation(operations: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = operations.add_parser(name, help=text)
    _add_common(command)
    return command


def _add_common(command: argparse.ArgumentParser) -> None:
    # Before the name of the operation and behind it.
    add = partial(command.add_argument, default=argparse.SUPPRESS)
    add("--state-dir", type=Path, metavar="DIR", help=f"its directory ({DEFAULT})")
    add("--json", action="store_true", help="print the answer as JSON; of a rolling restart, a line for each step")


def _add_waiting(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no-wait", action="store_true", help="return at once, not when this has come about")
    text = f"wait at most so long ({_TIMEOUT_S:g})"
    command.add_argument("--timeout-s", type=_seconds, default=_TIMEOUT_S, metavar="S", help=text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 <= seconds < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: seconds, 0 or more")
    return seconds


class NoSupervisor(Exception):
    """None answers."""


class NoAnswer(NoSupervisor):
    """There is one, and it does not answer in time."""


class Client:
    """A connection to the supervisor."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # Where many others are waiting to be let in, connecting waits for its turn, and no longer than this. With
        # Python's time-out it would be refused at once.
        seconds, rest = divmod(_ANSWER_S, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, pack("@ll", int(seconds), int(rest * 1e6)))
        try:
            here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._socket.connect(short_path(here, SOCKET))
            finally:
                os.close(here)
            self._socket.settimeout(_ANSWER_S)
        except BlockingIOError as error:
            self._socket.close()
            raise NoAnswer(_NO_ANSWER.format(_ANSWER_S)) from error
        except OSError as error:
            self._socket.close()
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
        except TimeoutError as error:
            raise NoAnswer(_NO_ANSWER.format(_ANSWER_S)) from error
        except OSError as error:
            raise NoSupervisor(str(error)) from error
        # Half a line if it was killed while it answered.
        if not line.endswith(b"\n"):
            raise NoSupervisor("the supervisor has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()


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
        began = monotonic()
        client = Client(options.state_dir)
        is_followed = request["operation"] in _WAITED_FOR and not options.no_wait
        say_line = _say_json if options.json else _say_text
        ledgers = Ledgers(client.ask, say_line) if request.get("rolling") and is_followed else None
        if options.watch and options.operation is None:
            return _watch(client)
        answer = client.ask(**request)
        if "error" in answer:
            print(f"error: {answer['error']}", file=sys.stderr)
            return 2
        if ledgers is not None:
            return follow(client.ask, say_line, answer["runs"], ledgers, began, options.timeout_s)
        if is_followed:
            return _follow(client, request["operation"], answer, options)
    except KeyboardInterrupt:
        print("\nnot waited for; the tree goes on with it: orchestrator tree", file=sys.stderr)
        return 1
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


def _say(line: str) -> None:
    print(line, flush=True)


def _say_text(line: Line) -> None:
    _say(line.text)


def _say_json(line: Line) -> None:
    _say(json.dumps(line.data))


def _follow(client: Client, operation: str, answer: dict[str, Any], options: argparse.Namespace) -> int:
    """Wait until what was asked for has come about."""
    say = _say if not options.json else lambda _: None
    for path in answer.get("well", ()):
        say(f"{path or 'the tree'}: neither on hold nor failed; only its counts of ends begin anew")
    following = Following(client.ask, say, options.timeout_s)
    if operation == "stop":
        try:
            left = following.stopped(answer["done"])
        except NoSupervisor as error:
            if answer["done"] != [""] or isinstance(error, NoAnswer):
                raise
            # The whole tree was stopped, and has ended.
            say("the tree has ended")
            left = []
    elif operation == "remove":
        left = following.removed(answer["done"])
    else:
        left = (
            following.started(answer["done"], answer.get("runs", {}), answer.get("stopped", ()))
            if answer["done"]
            else []
        )
        left += following.removed(answer.get("removed", []))
    if options.json:
        print(json.dumps({**answer, "left": left}, indent=2))
    if left:
        goal = _GOALS.get(operation, "ready")
        print(f"error: not {goal}: {', '.join(left)}; look at: orchestrator tree why {left[0]}", file=sys.stderr)
    return int(bool(left))


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
        if row.get("for_s") is not None:
            what = f"{what:<8} {_lasting(row['for_s'])}"
        lines.append(f"{name:<28} {row['kind']:<10} {what:<15} {row['state']:<22} {detail}".rstrip())
    return lines


def _lasting(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _logs(answer: dict[str, Any]) -> list[str]:
    logs = answer["logs"]
    return [f"{path} | {line}" if len(logs) > 1 else line for path, lines in logs.items() for line in lines]


def _why(answer: dict[str, Any]) -> list[str]:
    lines = []
    for path, story in answer["why"].items():
        lines.append(f"{path}: {story['state']}")
        for end in story["ends"]:
            at = datetime.fromtimestamp(end["at_s"], UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
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
