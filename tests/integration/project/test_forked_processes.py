"""Programs that tests start without their imports are processes as any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chaos.forked_process import ForkedProcess, run

TELLS = """
    import json, os, sys
    print(json.dumps({
        "arguments": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "variable": os.environ.get("OF_TEST"),
        "home": os.environ.get("HOME"), "session": os.getsid(0) == os.getpid(), "parent": os.getppid(),
        "imported": "celery" in sys.modules, "files": sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
        "read": sys.stdin.read(),
    }))
    sys.stderr.write("said\\n")
    sys.exit(3)
"""


def program(folder: Path, text: str) -> list[str]:
    (folder / "program.py").write_text(textwrap.dedent(text))
    return [sys.executable, str(folder / "program.py")]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are started anew")
def test_it_has_its_own_arguments_variables_folder_and_files(tmp_path: Path) -> None:
    process = ForkedProcess(
        [*program(tmp_path, TELLS), "a", "b c"],
        env={"OF_TEST": "1"},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    output, errors = process.communicate("given", timeout=60)
    assert json.loads(output) == {
        "arguments": ["a", "b c"],
        "name": "__main__",
        "folder": str(tmp_path),
        "variable": "1",
        "home": None,
        "session": True,
        "parent": os.getpid(),
        "imported": True,
        "files": ["0", "1", "2"],
        "read": "given",
    }
    assert (errors, process.returncode) == ("said\n", 3)


def test_one_that_is_killed_and_one_that_fails_say_so(tmp_path: Path) -> None:
    waits = ForkedProcess(program(tmp_path, "import signal; signal.pause()"), cwd=tmp_path, start_new_session=True)
    assert waits.poll() is None
    os.killpg(waits.pid, signal.SIGKILL)
    assert waits.wait(timeout=10) == -signal.SIGKILL
    failed = run(program(tmp_path, "raise LookupError('what now')"), cwd=tmp_path)
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "LookupError: what now")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are started anew")
def test_one_that_aborts_says_where_it_was_if_it_was_to(tmp_path: Path) -> None:
    text = "import os, sys\nassert 'celery' in sys.modules\nos.abort()\n"
    for variables, said in (({"PYTHONFAULTHANDLER": "1"}, True), ({}, False)):
        done = run(program(tmp_path, text), cwd=tmp_path, env=variables)
        assert done.returncode == -signal.SIGABRT, done.stderr
        assert ("program.py" in done.stderr) is said, done.stderr


def test_a_module_runs_as_by_its_name(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "celery", "--version"], cwd=tmp_path, check=True)
    assert done.stdout.startswith("5.")
