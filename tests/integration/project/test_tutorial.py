"""docs/tutorial.md really runs, from its first line to its last, and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from orchestrator.embedded.ports import free_port
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")

#: What is another text at each run: ids, times, incarnations, hosts, process ids and durations.
VARIES = {
    r"[0-9a-f]{8}-[0-9a-f-]{27}": r"[0-9a-f-]{36}",
    r"\d{13}-\d": r"\d{13}-\d+",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*Z?": r"\d{4}-\d\d-\d\d[T ][\d:.,]+Z?",
    r"worker\.\d": r"worker\.\d+",
    r"@[\w.-]+:\d+#\d+": r"@[\w.-]+:\d+#\d+",
    r"@[\w.-]+": r"@[\w.-]+",
    r"\b\d+(?:\.\d+)? ?(?:ms|s|m)\b": r"\d+(?:\.\d+)? ?(?:ms|s|m)",
    r"\b\d{4,}\b": r"\d+",
    r" {2,}": r"\s+",
    "─+": "─+",
    "…": ".*",
}
_VARIES = re.compile("|".join(f"({varying})" for varying in VARIES))


def pattern(line: str) -> re.Pattern[str]:
    """A pattern of what a line of the page stands for."""
    parts, at = [], 0
    for found in _VARIES.finditer(line):
        parts += [re.escape(line[at : found.start()]), [*VARIES.values()][(found.lastindex or 1) - 1]]
        at = found.end()
    return re.compile("".join([*parts, re.escape(line[at:])]))


def is_printed(shown: list[str], printed: str) -> bool:
    """Whether the lines of the page were printed, and no others; those in place of ``…`` are not compared."""
    lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    wanted = [line.rstrip() for line in shown if line.strip()]
    if "…" in wanted:
        return all(any(pattern(one).fullmatch(line) for line in lines) for one in wanted if one != "…")
    return len(lines) == len(wanted) and all(
        pattern(one).fullmatch(line) for one, line in zip(wanted, lines, strict=True)
    )


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, and the lines that the page shows below it."""
    for is_command, lines in groupby(block.splitlines(), lambda line: line.startswith("$ ")):
        if is_command:
            *silent, last = [line[2:] for line in lines]
            yield from ((command, []) for command in silent)
        else:
            yield last, [*lines]
            last = ""
    if is_command:
        yield last, []


class Reader:
    """Who follows the page: a directory, terminals in which something runs, and one for short commands."""

    #: What goes on in a terminal of its own. The last two take the place of one another.
    STAYS = ("python -m orchestrator.embedded", "celery -A shop worker", "orchestrator supervise")

    #: What only reads, and is asked again until it has come about.
    READS = ("celery -A shop delivery show", "celery -A shop ledger", "orchestrator tree")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"}
        for name in ("ORCHESTRATOR_BROKER_URL", "ORCHESTRATOR_CONFIG", "CELERY_BROKER_URL"):
            self._environment.pop(name, None)

    def write(self, block: str) -> None:
        """Write the file whose name is the first line of a block."""
        name = block.partition("\n")[0].removeprefix("# ")
        (self._directory / name).write_text(block, encoding="utf-8")

    def type(self, command: str, shown: list[str]) -> None:
        """Run a command, and compare what it prints."""
        if command.startswith(self.STAYS):
            self._start(command, shown)
        elif command.startswith(self.READS):
            eventually(lambda: is_printed(shown, self._run(command)), 60, lambda: f"{command}\n{self._run(command)}")
        else:
            printed = self._run(command)
            assert is_printed(shown, printed), f"{command} printed\n{printed}"

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, command: str, shown: list[str]) -> None:
        if "embedded" not in command:
            self._stop("shop")
        log = self._directory / f"{len(list(self._directory.iterdir()))}.log"
        with log.open("wb") as output:
            self._running[command] = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        eventually(lambda: is_printed([*shown, "…"], log.read_text("utf-8")), 90, lambda: log.read_text("utf-8"))

    def _stop(self, name: str) -> None:
        """Ctrl-C in the terminals whose command has this name; SIGTERM, as SIGINT may be ignored in the background."""
        for command in [command for command in self._running if name in command]:
            process = self._running.pop(command)
            process.terminate()
            process.wait(60)

    def close(self) -> None:
        """End all that runs; the Redis last."""
        try:
            self._stop("shop")
        finally:
            for process in self._running.values():
                process.kill()
                process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_runs_as_it_says(tmp_path: Path) -> None:
    page = PAGE.replace("6379", str(free_port()))
    reader = Reader(tmp_path)
    try:
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page, re.S | re.M):
            if language == "python":
                reader.write(block)
            elif language == "console":
                for command, shown in commands(block):
                    reader.type(command, shown)
    finally:
        reader.close()


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 300
