"""The demo, run as its user runs it. It leaves no process and no file, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import celery
import psutil
import pytest
from redis import Redis

from tests.support.eventually import eventually
from tests.support.worker_process import ROOT

#: Real files, about 160 of them.
CELERY = Path(celery.__file__).parent

_LAST_LINE = re.compile(
    r"demo: accepted=(?P<accepted>\d+) handled=(?P<handled>\d+) dead=(?P<dead>\d+) pending=(?P<pending>\d+) "
    r"lost=(?P<lost>-?\d+) duplicated=(?P<duplicated>\d+) kills=(?P<kills>\d+) recovered_s=(?P<recovered_s>\d+\.\d+)"
)


class Demo:
    """``python -m workers``, in a temporary directory of its own, with a mark on whatever it starts."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self._mark = uuid4().hex
        self._process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if "BROKER" not in name}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers", *arguments],
            cwd=ROOT,
            env={
                **inherited,
                "TMPDIR": str(self.temporary),
                "DEMO_TEST": self._mark,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Where the tests run in the background of a shell, an interrupt is ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        return self._process

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=100)
        return process.returncode, output

    def traces(self) -> list[str]:
        """Its processes and files that are there still."""
        left = [str(path) for path in self.temporary.iterdir()]
        for process in psutil.process_iter():
            try:
                if process.environ().get("DEMO_TEST") == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"{process.pid}: {process.cmdline()}")
            except psutil.Error:
                continue
        return left

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    running.close()
    eventually(lambda: not running.traces(), describe=lambda: "\n".join(running.traces()))


def last_line(output: str) -> dict[str, float]:
    found = _LAST_LINE.fullmatch(output.rstrip("\n").splitlines()[-1])
    assert found, output
    return {name: float(value) for name, value in found.groupdict().items()}


def test_every_message_is_accounted_for_although_workers_are_killed(demo: Demo) -> None:
    files = sum(1 for path in CELERY.rglob("*.py") if "__pycache__" not in path.parts)
    code, output = demo.run(str(CELERY), "--watch")
    numbers = last_line(output)
    assert code == 0, output
    # Beside the files: one message finds them, one sums up, and two are bad input.
    assert numbers["accepted"] == files + 4
    assert numbers["handled"] == files + 2
    assert numbers["dead"] == 2
    assert numbers["pending"] == numbers["lost"] == 0
    # The auditor, and the pool process of whoever had the poison: three deaths at most, one of which may be the
    # auditor's own.
    assert numbers["kills"] in (3, 4)
    # An execution that was cut short is made good: two of the poison, and what the auditor was at; likewise one whose
    # outcome was still waiting for company when the auditor was killed. Two a kill are allowed.
    assert 2 <= numbers["duplicated"] <= 2 * numbers["kills"]
    assert 0 < numbers["recovered_s"] <= 3, output
    assert re.search(r"workflow running, \d+%: find handled, audit \d+ of \d+, .*, summary waiting\n", output), output
    assert "kills_its_worker.py" in output
    assert "UnicodeDecodeError" in output
    assert not demo.traces()
    assert not [c for c in output if not c.isprintable() and c != "\n"], "control characters in what is no terminal"


def test_without_chaos_on_the_users_redis_it_keeps_to_its_own_keys(demo: Demo, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("the-users", "own")
        code, output = demo.run("--no-chaos", str(CELERY / "app"), ORCHESTRATOR_BROKER_URL=redis_url)
        numbers = last_line(output)
        assert code == 0, output
        assert numbers["accepted"] == numbers["handled"] > 0
        assert numbers["dead"] == numbers["duplicated"] == numbers["kills"] == numbers["recovered_s"] == 0
        keys = set(client.scan_iter())
        assert {key.split(b"-")[0] for key in keys - {b"the-users"}} == {b"demo"}
        assert all(client.ttl(key) > 0 for key in keys - {b"the-users"})
        assert client.get("the-users") == b"own"


def test_a_path_that_is_not_there_is_refused_in_one_line(demo: Demo) -> None:
    code, output = demo.run("/no/such/place")
    assert code == 2
    assert output == "Error: /no/such/place: No such file or directory\n"


@pytest.mark.parametrize(
    ("when", "number", "code"),
    [
        # The line that announces the workers; then the first quarter, when everything is up and busy.
        ("Redis:", signal.SIGTERM, 143),
        pytest.param(" done", signal.SIGINT, 130, marks=pytest.mark.slow),
        (" done", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_whatever_ends_it_early_ends_all_it_started(demo: Demo, when: str, number: signal.Signals, code: int) -> None:
    # It is not over before it can be ended: whoever has the poison is yet to die three times.
    process = demo.start(str(CELERY))
    assert process.stdout is not None
    for line in process.stdout:
        if when in line:
            break
    assert len(demo.traces()) > 1
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    eventually(lambda: not demo.traces(), timeout_s=5, describe=lambda: "\n".join(demo.traces()))
