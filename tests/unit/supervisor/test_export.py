"""The same processes in the formats of others."""

from __future__ import annotations

import configparser
import json
import shlex
from pathlib import Path

import pytest

from orchestrator.supervisor import reading
from orchestrator.supervisor.command import main
from orchestrator.supervisor.definition import Definition
from orchestrator.supervisor.export import compose, supervisord, systemd

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
environment = { LEVEL = "50%" }
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
    assert shlex.split(once["command"].replace("%%", "%")) == ["echo", "a b", "100%", "home is 5$"]
    assert (once["autorestart"], once["killasgroup"], once["stopasgroup"]) == ("unexpected", "true", "false")
    assert once["environment"] == 'LEVEL="50%%"'
    assert read["program:agents-billing.1"]["stopwaitsecs"] == "86400"


def test_systemd_units(definition):
    units = systemd(definition).split("# /etc/systemd/system/")[1:]

    assert [unit.splitlines()[0] for unit in units] == [
        *(
            f"orchestrator-{name}.service"
            for name in ("manager", "agents-billing.1", "agents-billing.2", "agents-once")
        ),
        "orchestrator.target",
    ]
    once = units[3].splitlines()
    assert 'ExecStart="/' in units[3]
    assert '"a b" "100%%" "home is 5$$"' in units[3]
    for line in (
        "After=orchestrator-agents-billing.2.service",
        "Restart=on-failure",
        "KillMode=mixed",
        "StartLimitBurst=5",
    ):
        assert line in once
    assert "TimeoutStopSec=infinity" in units[1]
    assert '"billing.1@%%h"' in units[1]


def test_compose_services(definition):
    lines = compose(definition).splitlines()

    assert [line.strip(" :") for line in lines if line.startswith("  ") and line[2] != " "] == [
        "manager", "agents-billing.1", "agents-billing.2", "agents-once",
    ]  # fmt: skip
    commands = [json.loads(line.partition(": ")[2]) for line in lines if "entrypoint" in line]
    assert commands[3] == ["echo", "a b", "100%", "home is 5$$"]
    assert commands[0][:4] == ["python", "-m", "celery", "-A"]


def test_the_command(definition, capsys, monkeypatch):
    monkeypatch.chdir(definition.directory)

    assert main(["export", "compose"]) == 0
    assert "services:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["export", "kubernetes"])
    assert ended.value.code == 2
    assert "export kubernetes; allowed: systemd, compose, supervisord" in capsys.readouterr().err
