"""Waits until what was asked of a tree has come about, and prints each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic, sleep
from typing import Any

#: Between two looks.
LOOK_S = 0.2

#: After this long without an end, what is waited for is named.
_PATIENCE_S = 2.0

Ask = Callable[..., dict[str, Any]]
Rows = Mapping[str, Mapping[str, Any]]


class Following:
    """One operation of ``orchestrator tree`` on a supervisor, looked at until its end."""

    def __init__(self, ask: Ask, say: Callable[[str], None], timeout_s: float) -> None:
        self._ask = ask
        self._say = say
        self._began = monotonic()
        self._until = self._began + timeout_s
        self._timeout_s = timeout_s
        self._said: dict[str, str] = {}
        self._has_named = False

    def stopped(self, paths: Sequence[str]) -> list[str]:
        """Wait until these have no process; returns those that still have one when the time is over.

        A whole tree (the path ``""``) ends with its supervisor: what asks it then raises :class:`NoSupervisor`.
        """
        if "" in paths:
            return self._wait(paths, lambda _: False, "to end", is_given_up=lambda *_: False)
        return self._wait(paths, lambda row: row.get("pid") is None, "to end")

    def removed(self, paths: Sequence[str]) -> list[str]:
        """Wait until these are not in the tree any more; returns those that are when the time is over."""
        left = self._wait(paths, lambda _: False, "to end")
        for path in (path for path in paths if path not in left):
            self._say(f"{path}: removed")
        return left

    def started(self, paths: Sequence[str], runs: Mapping[str, int], stopped: Collection[str] = ()) -> list[str]:
        """Wait until these are ready, in a later run than those given; returns those that are not.

        Those that an operator had ``stopped`` before, below one of these, may stay so.
        """

        def has_come(row: Mapping[str, Any]) -> bool:
            is_later = row["run"] > runs.get(row["path"], -1)
            return has_been_stopped(row) or (is_later and (row["state"] in ("ready", "done") or has_failed(row)))

        left = self._wait(paths, has_come, "to be ready")
        rows = self._rows()
        failed = [path for path in self._leaves(rows, paths) if has_failed(rows[path]) or has_been_stopped(rows[path])]
        as_before = [path for path in stopped if path in rows and has_been_stopped(rows[path])]
        return [path for path in dict.fromkeys([*left, *failed]) if path not in as_before]

    def _rows(self) -> Rows:
        return {row["path"]: row for row in self._ask(operation="tree")["children"]}

    def _leaves(self, rows: Rows, paths: Sequence[str]) -> list[str]:
        def is_meant(path: str) -> bool:
            return any(path == one or path.startswith(f"{one}/") or not one for one in paths)

        return [path for path, row in rows.items() if row["kind"] != "supervisor" and is_meant(path)]

    def _wait(
        self,
        paths: Sequence[str],
        has_come: Callable[[Mapping[str, Any]], bool],
        what: str,
        is_given_up: Callable[[Rows, str], bool] | None = None,
    ) -> list[str]:
        is_given_up = is_given_up or _is_given_up
        while True:
            rows = self._rows()
            leaves = self._leaves(rows, paths)
            for path in leaves:
                self._say_state(path, rows[path]["state"])
            left = [path for path in leaves if not has_come(rows[path]) and not is_given_up(rows, path)]
            if not left or monotonic() > self._until:
                return [path for path in leaves if not has_come(rows[path])]
            if not self._has_named and monotonic() - self._began > _PATIENCE_S:
                self._has_named = True
                self._say(f"waits for {', '.join(_with_time(rows[path], what) for path in left)} {what}")
            sleep(LOOK_S)

    def _say_state(self, path: str, state: str) -> None:
        # The rest of a pause is another one at each look.
        word = state.partition(" in ")[0]
        if self._said.get(path) != word:
            self._said[path] = word
            self._say(f"{path}: {state}")


def has_failed(row: Mapping[str, Any]) -> bool:
    """Whether a child will not be started again by itself."""
    return str(row["state"]).startswith(("failed", "gave up"))


def has_been_stopped(row: Mapping[str, Any]) -> bool:
    """Whether a child was stopped, or its supervisor: nothing starts it."""
    return str(row["state"]) == "stopped"


def _is_given_up(rows: Rows, path: str) -> bool:
    """Whether a supervisor above a child that does not run has given up, or was stopped."""
    parts = path.split("/")
    above = ["", *("/".join(parts[:count]) for count in range(1, len(parts)))]
    return rows[path].get("pid") is None and any(
        rows[one]["state"] in ("on hold", "gave up", "stopped") for one in above
    )


def _with_time(row: Mapping[str, Any], what: str) -> str:
    if what != "to end" or row.get("shutdown_s") is None:
        return str(row["path"])
    return f"{row['path']} (SIGKILL after {row['shutdown_s']:g} s)"
