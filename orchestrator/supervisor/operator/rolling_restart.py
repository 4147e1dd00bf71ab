"""Waits until a rolling restart has ended, and prints each step, its result, and what the apps' ledgers say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from orchestrator.supervisor.operator.tree_following import LOOK_S, Ask

_LEDGER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the command's output: a sentence, and the same as data."""

    text: str
    data: Mapping[str, Any]


#: Prints a line, in one form or the other.
Say = Callable[[Line], None]


class Ledgers:
    """The ledgers of a tree's apps, before something was done and after."""

    def __init__(self, ask: Ask, say: Say) -> None:
        tree = ask(operation="tree")
        self._apps, self._directory = tree["apps"], tree["directory"]
        self._environment = {**os.environ, **ask(operation="environment")["environment"]}
        if self._apps:
            say(Line(f"reads the ledger of {', '.join(self._apps)}", {"reads_ledgers": self._apps}))
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

    def lines(self) -> list[Line]:
        """A line for each app: what was lost, and what was settled twice since."""
        lines = []
        for app, before in self._before.items():
            now = self._read(app)
            if before is None or now is None:
                error = f"the ledger could not be read: celery -A {app} ledger"
                lines.append(Line(f"{app}: {error}", {"app": app, "error": error}))
                continue
            counts = {name: now[name] - before[name] for name in ("handled", "duplicated")} | {"lost": now["lost"]}
            shown = " ".join(f"{name}={counts[name]}" for name in ("handled", "lost", "duplicated"))
            lines.append(Line(f"{app}: {shown}", {"app": app, **counts}))
        return lines


def follow(ask: Ask, say: Say, runs: Mapping[str, int], ledgers: Ledgers, began: float, timeout_s: float) -> int:
    """Wait until all were restarted; the last lines are the ledgers'. Returns the exit code."""
    paths, bad = list(runs), roll(ask, say, runs, timeout_s)
    lines = ledgers.lines()
    well, took_s = len(paths) - len(bad), round(monotonic() - began, 1)
    text = f"{well} of {len(paths)} restarted, one at a time, in {took_s:.1f} s"
    data = {"restarted": well, "of": len(paths), "took_s": took_s, "not_ready": bad}
    say(Line(f"{text}; not ready: {', '.join(bad)}" if bad else text, data))
    for line in lines:
        say(line)
    return int(bool(bad))


def roll(ask: Ask, say: Say, runs: Mapping[str, int], timeout_s: float) -> list[str]:
    """Wait until a rolling restart has ended, and say who is stopped and who is ready; returns those not ready.

    ``runs`` has the runs of before. Each of them may take ``timeout_s``; the supervisor goes on with the rest when that
    is over. It ends at one that fails, and the others run on as they did.
    """
    began, paths, left, state = monotonic(), list(runs), list(runs), ""
    while True:
        answer = ask(operation="tree")
        rows = {row["path"]: row for row in answer["children"]}
        rolling = answer["rolling"]
        for path in (path for path in left if path not in rolling):
            after_s = round(monotonic() - began, 1)
            ended = _end(rows, path, runs.get(path))
            what = _END.get(ended, f"is not ready ({ended})")
            say(_line(paths, path, what if ended == _PASSED_OVER else f"{what} after {after_s:.1f} s", ended, after_s))
            began, state = monotonic(), ""
        left = rolling
        if not left or monotonic() - began > timeout_s:
            return [path for path in paths if path in left or _end(rows, path, runs[path]) not in _WELL]
        head = left[0]
        now = str(rows[head]["state"]) if head in rows else ""
        if now != state and now in _STEPS:
            say(_line(paths, head, _STEPS[now], now))
        state = now
        sleep(LOOK_S)


#: In words, what a child does whose turn it is, and how its turn has ended, by its state.
_STEPS = {"stopping": "stops", "starting": "starts"}
_PASSED_OVER = "not restarted"
_END = {"ready": "is ready again", "removed": "was removed", _PASSED_OVER: "was not restarted"}
_WELL = ("ready", "removed")


def _end(rows: Mapping[str, Mapping[str, Any]], path: str, run: int | None) -> str:
    """The state of a child after its turn, or after the end of the rolling restart."""
    if path not in rows:
        return "removed"
    state = str(rows[path]["state"])
    return _PASSED_OVER if state == "ready" and rows[path]["run"] == run else state


def _line(paths: Sequence[str], path: str, what: str, state: str, after_s: float | None = None) -> Line:
    number = paths.index(path) + 1 if path in paths else None
    turn = f"{number} of {len(paths)}" if number is not None else "also"
    data = {"id": path, "state": state, "number": number, "of": len(paths)}
    return Line(f"{turn}: {path} {what}", data if after_s is None else {**data, "after_s": after_s})
