"""How each kind of child is known to be ready."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import pytest

from orchestrator.embedded.ports import free_port
from tests.support.eventually import eventually
from tests.support.supervised import PYTHON, process

#: Says READY=1 to the supervisor when the file ``go`` is there.
NOTIFIES = """
import os, socket, time
while not os.path.exists("go"): time.sleep(0.01)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.sendto(b"STATUS=up\\nREADY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""

#: Answers 503 at its port, until the file ``go`` is there.
SERVES = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists("go") and self.path == "/healthz?x=1" else 503)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.serve_forever()
"""


#: Runs its arguments when the file ``go`` is there.
WAITS_FOR_GO = 'while ! test -e go; do sleep 0.01; done; exec "$$@"'


def redis_at(port: int) -> list[str]:
    return [sys.executable, "-m", "orchestrator.embedded", "--no-password", "--port", str(port)]


def children(kind: str, port: int) -> list[dict[str, object]]:
    first = {
        "notify": process("a", [*PYTHON, NOTIFIES], ready="notify"),
        "exec": process("a", ready_command=["test", "-e", "go"]),
        "http": process(
            "a", [sys.executable, "-c", SERVES, str(port)], ready_url=f"http://127.0.0.1:{port}/healthz?x=1"
        ),
        "ping": process("a", ["sh", "-c", WAITS_FOR_GO, "sh", *redis_at(port)], ready="ping", port=port),
    }[kind]
    return [first, process("b")]


@pytest.mark.parametrize("kind", ["notify", "exec", "http", "ping"])
def test_the_next_child_starts_when_it_is_ready(supervise, tmp_path, kind):
    tree = supervise(children(kind, free_port()))
    eventually(lambda: tree.ask().returncode == 0 and tree.tree()["a"]["pid"])
    assert states(tree) == ["starting", "waits for its turn"]
    (tmp_path / "go").touch()
    tree.wait_for("all are ready")

    assert states(tree) == ["ready", "ready"]
    assert tree.stop() == 0
    assert not list(tree.state.glob("notify-*"))


@pytest.mark.parametrize("kind", ["notify", "exec", "http", "ping"])
def test_one_that_is_never_ready_is_ended_and_counted(supervise, kind):
    first, *others = children(kind, free_port())
    tree = supervise([{**first, "ready_s": 0.3, "backoff": {"first_s": 0.01}}, *others], intensity=1)
    tree.wait_for("a: not ready within 0.3 s")
    tree.wait_for("a: not ready within 0.3 s")

    assert tree.process.wait(20) == 1
    assert tree.members() == []


def test_another_server_at_its_port_is_not_taken_for_it(supervise):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        redis = {"id": "a", "kind": "redis", "port": port, "backoff": {"first_s": 0.01}}
        tree = supervise([redis, process("b")], intensity=1)
        for _ in range(2):
            tree.wait_for(f"a: not started: Address already in use: 127.0.0.1:{port}")

        assert tree.process.wait(20) == 1
    assert not [line for line in tree.all_lines() if line.startswith("b ")]


def test_a_socket_in_a_directory_with_a_long_name(supervise, tmp_path):
    (tmp_path / "go").touch()
    long = tmp_path / ("d" * 120)
    tree = supervise(children("notify", 0), "--state-dir", str(long))
    tree.wait_for("all are ready")

    assert tree.stop() == 0


APPS = {
    "no Orchestrator": "app = Celery('plain', broker=os.environ['PLAIN_BROKER'])",
    "another broker": (
        "from orchestrator import Orchestrator\n"
        "app = Celery('plain', broker='filesystem://')\n"
        "app.conf.broker_transport_options = {'data_folder_in': '.', 'data_folder_out': '.'}\n"
        "orchestrator = Orchestrator(app)"
    ),
}


@pytest.mark.parametrize("app", list(APPS))
def test_workers_of_an_app_that_this_library_does_not_supervise(supervise, tmp_path, redis_url, app):
    (tmp_path / "plain_app.py").write_text(f"import os\nfrom celery import Celery\n{APPS[app]}\n")
    worker = {"id": "a", "kind": "worker", "pool": "solo", "app": "plain_app", "ready_s": 50}
    environment = {"PLAIN_BROKER": redis_url, "C_FORCE_ROOT": "1"}
    tree = supervise([worker, process("b")], of_all=environment)
    tree.wait_for("all are ready", 60)
    pid = tree.tree()["a"]["pid"]
    os.kill(pid, signal.SIGKILL)
    tree.wait_for("a: process")
    eventually(lambda: states(tree) == ["ready", "ready"])
    why = json.loads(tree.ask("--json", "why", "a").stdout)["why"]["a"]

    assert [end["how"] for end in why["ends"]] == ["SIGKILL"]
    assert tree.stop(60) == 0


def states(tree) -> list[str]:
    return [row["state"] for path, row in tree.tree().items() if path]
