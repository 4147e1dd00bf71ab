"""The same processes in the formats of others."""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.supervisor.command import main
from orchestrator.supervisor.export.compose import compose, unreachable_brokers
from orchestrator.supervisor.export.formats import supervisord, systemd
from orchestrator.supervisor.reading import read as reading
from orchestrator.supervisor.reading.definition import Definition

TEXT = """
[supervisor]
app = "shop"
[[supervisor.children]]
id = "manager"
kind = "worker"
queues = ["monitor-manager"]
[[supervisor.children]]
id = "agents"
intensity = 4
[[supervisor.children.children]]
id = "billing"
kind = "worker"
replicas = 2
shutdown_s = "infinity"
[[supervisor.children.children]]
id = "once"
kind = "process"
restart = "transient"
command = ["echo", "a b", "100%", "$HOME is 5$"]
environment = { LEVEL = "50% $$5" }
"""


@pytest.fixture
def definition(tmp_path) -> Definition:
    (tmp_path / "orchestrator.toml").write_text(TEXT.replace("$HOME", "home"))
    return reading.read(tmp_path / "orchestrator.toml", Path("state"))


def test_supervisord_reads_it(definition):
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(supervisord(definition))

    programs = [name for name in read if name.startswith("program:")]
    assert programs == [
        f"program:{name}" for name in ("manager", "agents-billing.1", "agents-billing.2", "agents-once")
    ]
    once = read["program:agents-once"]
    assert shlex.split(once["command"].replace("%%", "%")) == [shutil.which("echo"), "a b", "100%", "home is 5$"]
    assert (once["autorestart"], once["killasgroup"], once["stopasgroup"]) == ("unexpected", "true", "false")
    assert once["environment"] == 'LEVEL="50%% $5"'
    assert read["program:agents-billing.1"]["stopwaitsecs"] == "86400"


def test_supervisord_reads_what_would_begin_a_comment_or_end_a_quote(tmp_path):
    words = ["sh", "-c", "echo 'a' ; b # \"c\""]
    child = f"{{ id = 'a', kind = 'process', command = {json.dumps(words)}, environment = {{ A = \"it's; x\" }} }}"
    (tmp_path / "orchestrator.toml").write_text(f"[supervisor]\nchildren = [{child}]")
    read = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    read.read_string(supervisord(reading.read(tmp_path / "orchestrator.toml", Path("state"))))

    assert shlex.split(read["program:a"]["command"]) == ["env", "A=it's; x", shutil.which("sh"), *words[1:]]


def test_systemd_units(definition):
    units = systemd(definition)

    names = ("manager", "agents-billing.1", "agents-billing.2", "agents-once")
    assert list(units) == [*(f"orchestrator-{name}.service" for name in names), "orchestrator.target"]
    once = units["orchestrator-agents-once.service"].splitlines()
    assert f'ExecStart="{shutil.which("echo")}" "a b" "100%%" "home is 5$$"' in once
    for line in (
        "After=orchestrator-agents-billing.2.service",
        'Environment="LEVEL=50%% $5"',
        "Restart=on-failure",
        "KillMode=mixed",
        "StartLimitBurst=5",
    ):
        assert line in once
    billing = units["orchestrator-agents-billing.1.service"]
    assert "TimeoutStopSec=infinity" in billing
    assert '"billing.1@%%h"' in billing


def test_systemd_finds_nothing_wrong_with_the_units(definition, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for name, text in systemd(definition).items():
        (tmp_path / name).write_text(text)
    names = sorted(str(path) for path in tmp_path.glob("orchestrator*") if path.suffix != ".toml")
    done = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False)

    assert (done.returncode, [line for line in done.stderr.splitlines() if "orchestrator" in line]) == (0, [])


STACK = """
[supervisor]
app = "shop"
environment = { ORCHESTRATOR_BROKER_URL = "redis://localhost:7001/3" }
[[supervisor.children]]
id = "redis"
kind = "redis"
port = 7001
[[supervisor.children]]
id = "beat"
kind = "beat"
[[supervisor.children]]
id = "billing"
kind = "worker"
replicas = 2
directory = "shop"
[[supervisor.children]]
id = "flower"
kind = "flower"
"""


@pytest.fixture
def stack(tmp_path) -> dict[str, dict[str, Any]]:
    (tmp_path / "orchestrator.toml").write_text(STACK)
    (tmp_path / "Dockerfile").touch()
    return services(compose(reading.read(tmp_path / "orchestrator.toml", tmp_path / ".state")))


def services(text: str) -> dict[str, dict[str, Any]]:
    """The services of a compose.yaml: each value in it is JSON."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.partition("services:\n")[2].splitlines():
        name, _, value = line.strip().partition(": ")
        if line.startswith("    "):
            found[list(found)[-1]][name] = json.loads(value)
        elif line.startswith("  "):
            found[name.rstrip(":")] = {}
    return found


def test_compose_services(definition):
    made = services(compose(definition))

    assert list(made) == ["manager", "agents-billing.1", "agents-billing.2", "agents-once"]
    assert made["agents-once"]["entrypoint"] == ["echo", "a b", "100%", "home is 5$$"]
    assert made["manager"]["entrypoint"][:4] == ["python", "-m", "celery", "-A"]
    # Copies wait for the same one.
    assert list(made["agents-billing.2"]["depends_on"]) == ["manager"]
    assert list(made["agents-once"]["depends_on"]) == ["agents-billing.1", "agents-billing.2"]
    assert made["manager"]["image"].startswith("${IMAGE:?allowed: an image that holds the app")


def test_a_redis_is_reached_by_its_name_and_published_to_nobody(stack):
    assert stack["redis"]["image"] == "redis:7"
    assert stack["redis"]["volumes"] == ["redis:/data"]
    assert "ports" not in stack["redis"]
    for name in ("beat", "billing.1", "flower"):
        assert stack[name]["environment"] == {"ORCHESTRATOR_BROKER_URL": "redis://redis:7001/3"}
        assert stack[name]["depends_on"]["redis"] == {"condition": "service_healthy"}


def test_nothing_of_this_host_is_in_a_service(stack, tmp_path):
    assert str(tmp_path) not in json.dumps(stack)
    assert stack["billing.1"]["build"] == {"context": ".", "dockerfile": "Dockerfile"}
    assert stack["billing.1"]["entrypoint"][:3] == ["sh", "-c", 'cd "shop" && exec "$$0" "$$@"']
    beat = stack["beat"]["entrypoint"]
    assert beat[beat.index("-s") + 1] == "/tmp/celerybeat-schedule"


def test_flower_listens_in_its_container_and_is_published_at_loopback_alone(stack):
    assert "--address=0.0.0.0" in stack["flower"]["entrypoint"]
    assert stack["flower"]["ports"] == ["127.0.0.1:5555:5555"]


def test_an_app_whose_broker_no_container_reaches_is_warned_of(definition):
    (warning,) = unreachable_brokers(definition, {"shop": "redis://:secret@127.0.0.1:6379/0"})
    assert warning == (
        "app shop: its broker is 127.0.0.1:6379, which no container reaches; add a child of kind redis, "
        "or name another broker in CELERY_BROKER_URL in the environment of [supervisor]"
    )
    assert not list(unreachable_brokers(definition, {"shop": "redis://redis.example.com/0"}))


def test_the_command(definition, capsys, monkeypatch):
    monkeypatch.chdir(definition.directory)
    monkeypatch.setenv("ORCHESTRATOR_LEASE_S", "9")

    assert main(["export", "compose"]) == 0
    printed = capsys.readouterr()
    assert "services:" in printed.out
    assert "set here, but not in the export:" in printed.err
    assert "ORCHESTRATOR_LEASE_S" in printed.err
    with pytest.raises(SystemExit) as ended:
        main(["export", "kubernetes"])
    assert ended.value.code == 2
    assert "export kubernetes; allowed: systemd, compose, supervisord" in capsys.readouterr().err


def test_the_files_of_an_export(definition, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(definition.directory)
    (tmp_path / "units").mkdir()

    assert main(["export", "systemd", "--to", str(tmp_path / "units")]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(map(str, (tmp_path / "units").iterdir()))
    assert main(["export", "systemd", "--to", str(tmp_path / "none")]) == 2
