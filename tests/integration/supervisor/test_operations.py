"""`orchestrator tree`: a deployment that runs is looked at and operated."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from orchestrator.supervisor.state_directory import SOCKET
from tests.support.eventually import eventually
from tests.support.supervised import PYTHON, WAITS, process


@pytest.fixture
def tree(supervise):
    group = {"id": "agents", "children": [process("billing", replicas=2), process("mail")], "strategy": "rest_for_one"}
    tree = supervise([process("web"), group], intensity=9)
    tree.wait_for("all are ready")
    return tree


def states(tree) -> dict[str, str]:
    return {path: row["state"] for path, row in tree.tree().items() if path}


ALL = ("web", "agents", "agents/billing.1", "agents/billing.2", "agents/mail")


def test_which_children_there_are(tree):
    assert states(tree) == dict.fromkeys(ALL, "ready")
    shown = tree.ask().stdout
    assert "agents                       supervisor rest_for_one ready" in shown
    assert "  billing.1                  process" in shown
    # A child of another supervisor is known by its id alone.
    assert tree.ask("why", "mail").returncode == 0


def test_stop_start_restart(tree):
    before = tree.tree()
    assert tree.ask("stop", "agents/billing").stdout == "agents/billing.1, agents/billing.2\n"
    eventually(lambda: states(tree)["agents/billing.1"] == "stopped")
    # What an operator has stopped stays stopped when a sibling is restarted.
    os.kill(tree.tree()["agents/mail"]["pid"], signal.SIGKILL)
    eventually(lambda: tree.tree()["agents/mail"]["restarts"] == 1)
    assert states(tree)["agents/billing.2"] == "stopped"
    tree.ask("start", "agents/billing")
    eventually(lambda: states(tree) == dict.fromkeys(ALL, "ready"))
    tree.ask("restart", "web")
    eventually(lambda: tree.tree()["web"]["pid"] not in (None, before["web"]["pid"]))
    assert tree.tree()["web"]["restarts"] == 0


def test_a_rolling_restart_ends_when_all_are_ready(tree):
    before = tree.tree()
    done = tree.ask("restart", "--rolling", "agents")

    assert done.returncode == 0
    assert "3 restarted one by one in" in done.stdout
    after = tree.tree()
    assert all(after[path]["pid"] != before[path]["pid"] for path in ALL[2:])
    assert after["web"]["pid"] == before["web"]["pid"]


def test_scale_add_and_remove(tree):
    assert "agents/billing.4" in tree.ask("scale", "agents/billing=4").stdout
    eventually(lambda: states(tree).get("agents/billing.4") == "ready")
    assert tree.ask("scale", "billing=1").stdout.splitlines()[1:] == [
        "removed: agents/billing.4", "removed: agents/billing.3", "removed: agents/billing.2",
    ]  # fmt: skip
    child = f'{{ id = "more", kind = "process", command = {json.dumps(WAITS)}, replicas = 2 }}'
    assert tree.ask("add", "agents", child).stdout == "agents/more.1, agents/more.2\n"
    eventually(lambda: states(tree).get("agents/more.2") == "ready")
    assert "there is one" in tree.ask("add", "agents", child).stderr
    tree.ask("remove", "agents/more")
    eventually(lambda: sorted(states(tree)) == ["agents", "agents/billing.1", "agents/mail", "web"])
    assert len(tree.members()) == 3


def test_why_shows_how_runs_have_ended_and_their_last_words(supervise):
    command = [*PYTHON, "import sys, time; print('so long', flush=True); time.sleep(0.05); sys.exit(3)"]
    tree = supervise([process("a", command, restart="temporary"), process("b")])
    tree.wait_for("exit code 3")
    story = json.loads(tree.ask("--json", "why", "a").stdout)["why"]["a"]

    assert story["state"] == "done"
    assert (story["ends"][0]["how"], story["ends"][0]["last_words"]) == ("exit code 3", ["so long"])
    assert "exit code 3" in tree.ask("why", "a").stdout
    assert tree.ask("logs", "a", "--lines", "1").stdout == "so long\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("stop", "biling"), "unknown child 'biling'"),
        (("stop", "agents/bill"), "unknown child 'agents/bill'; did you mean 'agents/mail'?"),
        (("scale", "agents/billing=257"), "agents/billing=257; allowed: a whole number from 0 to 256"),
        (("scale", "agents/billing=-1"), "agents/billing=-1; allowed: a whole number from 0 to 256"),
        (("scale", "agents=2"), "unknown child 'agents'"),
        (("add", "web", "{ id = 'x' }"), "web: allowed: a supervisor"),
        (("add", "agents", "{ id = 'x', kind = 'worker' }"), "agents/x.app=; missing: a worker needs it"),
        (("add", "agents", "{ id"), "TABLE:"),
        (("scale", "agents/billing"), "allowed: ID=COUNT"),
        (("logs", "web", "--lines", "0"), "lines=0; allowed: a whole number from 1"),
    ],
)
def test_bad_requests(tree, arguments, error):
    done = tree.ask(*arguments)

    assert done.returncode == 2
    assert error in done.stderr


def test_the_control_socket_is_its_users_alone_and_survives_its_clients(tree):
    path = tree.state / SOCKET
    assert path.stat().st_mode & 0o777 == 0o600
    for nonsense in (b"", b"{", b"[1]\n", b"x" * 100_000, b'{"operation": 3}\n', b"\xff\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(nonsense)
    assert states(tree)["web"] == "ready"


WRONG_TYPES = [
    {"operation": ["x"]},
    {"operation": {}},
    {"operation": None},
    {"operation": "add", "child": {"id": "x", "kind": ["process"]}},
    {"operation": "add", "child": {"id": "x", "kind": "process", "command": [["x"]]}},
    {"operation": "scale", "id": ["web"], "count": 1},
    {"operation": "logs", "id": "web", "lines": {}},
    {"operation": "restart", "id": {"a": 1}, "rolling": []},
]


def test_requests_of_wrong_types_are_answered_with_an_error(tree):
    assert all("error" in answer_to(tree, request) for request in WRONG_TYPES)
    assert states(tree)["web"] == "ready"


def test_a_port_that_there_is_not_is_refused_of_a_further_child(tree):
    child = {"id": "x", "kind": "process", "command": WAITS, "ready_url": "http://127.0.0.1:99999/"}
    assert "a port from 1 to 65535" in answer_to(tree, {"operation": "add", "child": child})["error"]
    assert states(tree)["web"] == "ready"


def answer_to(tree, request) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(tree.state / SOCKET))
        client.sendall(json.dumps(request).encode() + b"\n")
        with client.makefile() as lines:
            answer: dict[str, str] = json.loads(lines.readline())
            return answer


def test_busy_while_it_stops(supervise):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    tree = supervise([process("a", [*PYTHON, deaf], shutdown_s="infinity")])
    tree.wait_for("deaf")
    tree.process.terminate()
    tree.wait_for("stopping")

    assert tree.ask("start", "a").returncode == 2
    assert "busy" in tree.ask("start", "a").stderr


def test_without_a_supervisor(tmp_path, tree):
    tree.stop()

    assert tree.ask().returncode == 4
