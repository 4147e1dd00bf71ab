"""`orchestrator tree`: a deployment that runs is looked at and operated."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.supervisor.operator.tree_command import Client, NoSupervisor
from orchestrator.supervisor.state_directory import SOCKET
from tests.support.eventually import eventually
from tests.support.supervised import ORCHESTRATOR, PYTHON, WAITS, process


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
    assert "agents                       supervisor rest_for_one    ready" in shown
    assert re.search(r"  billing.1 +process +\d+ +\d+ s +ready\n", shown)
    assert "  billing.1                  process" in shown
    # A child of another supervisor is known by its id alone.
    assert tree.ask("why", "mail").returncode == 0


def test_stop_start_restart(tree):
    before = tree.tree()
    stopped = tree.ask("stop", "agents/billing")
    assert stopped.returncode == 0
    assert {"agents/billing.1: stopped", "agents/billing.2: stopped"} <= set(stopped.stdout.splitlines())
    assert states(tree)["agents/billing.1"] == "stopped"
    # What an operator has stopped stays stopped when a sibling is restarted.
    os.kill(tree.tree()["agents/mail"]["pid"], signal.SIGKILL)
    eventually(lambda: tree.tree()["agents/mail"]["restarts"] == 1)
    assert states(tree)["agents/billing.2"] == "stopped"
    assert "agents/billing.2: ready" in tree.ask("start", "agents/billing").stdout
    assert states(tree) == dict.fromkeys(ALL, "ready")
    assert tree.ask("restart", "web").stdout.splitlines()[-1] == "web: ready"
    assert tree.tree()["web"]["pid"] not in (None, before["web"]["pid"])
    assert tree.tree()["web"]["restarts"] == 0


def test_a_child_that_was_stopped_stays_so_in_a_restart_of_its_supervisor_which_is_no_failure(tree):
    assert tree.ask("stop", "agents/mail").returncode == 0
    restarted = tree.ask("restart", "agents")
    assert (restarted.returncode, restarted.stderr) == (0, "")
    assert states(tree) == {**dict.fromkeys(ALL, "ready"), "agents/mail": "stopped"}


def test_a_rolling_restart_ends_when_all_are_ready(tree):
    before = tree.tree()
    done = tree.ask("restart", "--rolling", "agents")

    assert done.returncode == 0
    *steps, total = done.stdout.splitlines()
    assert re.fullmatch(r"3 of 3 restarted, one at a time, in \d+\.\d s", total)
    for number, path in enumerate(("agents/billing.1", "agents/billing.2", "agents/mail"), 1):
        assert any(step.startswith(f"{number} of 3: {path} is ready again after ") for step in steps)
    after = tree.tree()
    assert all(after[path]["pid"] != before[path]["pid"] for path in ALL[2:])
    assert after["web"]["pid"] == before["web"]["pid"]


DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"


def test_a_stop_waits_for_the_end_and_says_for_what(supervise):
    tree = supervise([process("a", [*PYTHON, DEAF], shutdown_s=3600)])
    tree.wait_for("deaf")
    with tree.asking("stop", "a") as asked:
        assert asked.stdout.readline() == "a: stopping\n"
        assert asked.stdout.readline() == "waits for a (SIGKILL after 3600 s) to end\n"
        os.kill(tree.tree()["a"]["pid"], signal.SIGKILL)
        assert asked.stdout.read() == "a: stopped\n"
        assert asked.wait(20) == 0


def test_a_stop_that_takes_too_long_fails_and_one_that_is_not_waited_for_does_not(supervise):
    tree = supervise([process("a", [*PYTHON, DEAF], shutdown_s="infinity")])
    tree.wait_for("deaf")
    assert tree.ask("stop", "a", "--no-wait").stdout == "a\n"
    done = tree.ask("stop", "a", "--timeout-s", "0.5")

    assert done.returncode == 1
    assert done.stderr == "error: not stopped: a; look at: orchestrator tree why a\n"


def test_a_stop_of_the_whole_tree_waits_for_its_end(tree):
    done = tree.ask("stop", "")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the tree has ended")
    assert tree.process.wait(20) == 0


def test_a_start_of_what_cannot_run_fails(supervise):
    tree = supervise([process("a", ["/no/such/program"]), process("b")])
    tree.wait_for("started, but for a")
    done = tree.ask("start", "a")

    assert done.returncode == 1
    assert "error: not ready: a" in done.stderr


def test_a_reset_of_what_runs_says_that_there_is_nothing_to_reset(tree):
    done = tree.ask("reset", "agents")

    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "agents: neither on hold nor failed; only its counts of ends begin anew"


def test_scale_add_and_remove(tree):
    assert "agents/billing.4: ready" in tree.ask("scale", "agents/billing=4").stdout
    assert states(tree)["agents/billing.4"] == "ready"
    scaled = tree.ask("scale", "billing=1").stdout.splitlines()
    assert {f"agents/billing.{number}: removed" for number in (2, 3, 4)} <= set(scaled)
    assert [path for path in states(tree) if "billing" in path] == ["agents/billing.1"]
    child = f'{{ id = "more", kind = "process", command = {json.dumps(WAITS)}, replicas = 2 }}'
    assert {"agents/more.1: ready", "agents/more.2: ready"} <= set(tree.ask("add", "agents", child).stdout.splitlines())
    assert states(tree)["agents/more.2"] == "ready"
    assert "there is one" in tree.ask("add", "agents", child).stderr
    assert "agents/more.2: removed" in tree.ask("remove", "agents/more").stdout.splitlines()
    assert sorted(states(tree)) == ["agents", "agents/billing.1", "agents/mail", "web"]
    assert len(tree.members()) == 3


def test_a_child_of_a_supervisor_that_was_stopped_is_not_waited_for(tree):
    assert tree.ask("stop", "agents").returncode == 0
    added = tree.ask("add", "agents", f'{{ id = "more", kind = "process", command = {json.dumps(WAITS)} }}')

    assert (added.returncode, added.stdout) == (1, "agents/more: waits for its turn\n")
    assert added.stderr == "error: not ready: agents/more; look at: orchestrator tree why agents/more\n"


def test_a_removal_waits_for_the_end(supervise):
    tree = supervise([process("a", [*PYTHON, DEAF], shutdown_s=3600), process("b")])
    tree.wait_for("deaf")
    with tree.asking("remove", "a") as asked:
        assert asked.stdout.readline() == "a: stopping\n"
        os.kill(tree.tree()["a"]["pid"], signal.SIGKILL)
        # After two seconds, it says for what it waits.
        assert asked.stdout.read().splitlines()[-1] == "a: removed"
        assert asked.wait(20) == 0
    assert states(tree) == {"b": "ready"}
    assert tree.ask("remove", "b", "--no-wait").stdout == "b\n"


def test_the_last_line_says_what_has_ended_and_how(supervise):
    tree = supervise([process("well"), process("deaf", [*PYTHON, DEAF], shutdown_s=1)])
    tree.wait_for("deaf")
    assert tree.stop() == 0

    end = (
        r"supervise +\| \[.*\] the tree has ended in (\d+\.\d) s: 2 processes stopped, killed of these: deaf; exit .*0"
    )
    found = re.fullmatch(end, tree.all_lines()[-1])
    assert found
    assert float(found[1]) >= 1


def test_the_last_line_of_a_tree_that_gave_up(supervise):
    tree = supervise([process("web"), process("a", ["sh", "-c", "exit 3"])], intensity=0)
    assert tree.process.wait(20) == 1

    assert tree.all_lines()[-1].endswith(" s: 1 process stopped; exit code 1")


def test_copies_that_are_wanted_again_while_they_stop_come_back(supervise, tmp_path):
    stops_late = "trap 'while ! test -e go; do sleep 0.01; done; exit' TERM; echo up; while :; do sleep 0.01; done"
    tree = supervise([process("a", ["sh", "-c", stops_late], replicas=3)])
    tree.wait_for("all are ready")
    for _ in range(3):
        tree.wait_for("| up")
    before = tree.tree()
    assert "removed: a.3" in tree.ask("scale", "a=1", "--no-wait").stdout
    eventually(lambda: states(tree)["a.2"] == "stopping")
    assert tree.ask("scale", "a=3", "--no-wait").stdout == "a.1, a.2, a.3\n"
    (tmp_path / "go").touch()
    eventually(lambda: states(tree) == dict.fromkeys(("a.1", "a.2", "a.3"), "ready"))

    after = tree.tree()
    assert [path for path in after if path and after[path]["pid"] == before[path]["pid"]] == ["a.1"]


def test_scale_while_a_rolling_restart_goes_on(supervise, tmp_path):
    gate = ["sh", "-c", "echo up; exec sleep 1000"]
    tree = supervise([process("a", gate, replicas=3, ready_command=["test", "!", "-e", "stay"], ready_s=60)])
    tree.wait_for("all are ready")
    (tmp_path / "stay").touch()
    before = tree.tree()
    answer: dict[str, Any] = dict(answer_to(tree, {"operation": "restart", "rolling": True}))
    assert answer["done"] == ["a.1", "a.2", "a.3"]
    eventually(lambda: states(tree)["a.1"] == "starting")
    assert "removed: a.3" in tree.ask("scale", "a=2", "--no-wait").stdout
    tree.ask("scale", "a=4", "--no-wait")
    (tmp_path / "stay").unlink()
    eventually(lambda: set(states(tree).values()) == {"ready"} and len(states(tree)) == 4)
    eventually(lambda: not answer_to(tree, {"operation": "tree"})["rolling"])

    after = tree.tree()
    assert not {after[path]["pid"] for path in after if path} & {before[path]["pid"] for path in before if path}
    assert len(tree.members()) == 4


def test_requests_that_come_together_are_done_one_after_the_other(tree):
    os.kill(tree.process.pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for client, count in ((first, 4), (second, 1)):
            client.connect(str(tree.state / SOCKET))
            client.sendall(json.dumps({"operation": "scale", "id": "billing", "count": count}).encode() + b"\n")
        os.kill(tree.process.pid, signal.SIGCONT)
        answers = [json.loads(client.makefile().readline()) for client in (first, second)]

    # Whichever was first.
    counts = {len(answer["done"]) for answer in answers}
    assert counts == {4, 1}
    removed = max(len(answer["removed"]) for answer in answers)
    eventually(lambda: len([path for path in states(tree) if "billing" in path]) == (1 if removed == 3 else 4))
    eventually(lambda: set(states(tree).values()) == {"ready"})


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
        (("add", "web", "{ id = 'x' }"), "web: allowed: a supervisor; there are: '', agents\n"),
        (("add", "agnts", "{ id = 'x' }"), "agnts: allowed: a supervisor; there are: '', agents\n"),
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


def test_commands_that_hang_keep_no_operator_out(tree):
    """Regression: with 64 of them, further ones ended with "Broken pipe"."""
    with contextlib.ExitStack() as hanging:
        for _ in range(70):
            client = hanging.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(tree.state / SOCKET))
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


#: Another user's process, which looks at the supervisor at a path.
AS_ANOTHER = """
import os, socket, sys
os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(b'{"operation": "tree"}\\n')
print(client.recv(100))
"""


def test_another_user_is_not_answered(tree, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    # However open the directory is.
    with tempfile.TemporaryDirectory(dir="/tmp") as open_to_all:
        Path(open_to_all).chmod(0o755)
        (link := Path(open_to_all) / "control").hardlink_to(tree.state / SOCKET)
        link.chmod(0o666)
        done = subprocess.run([*PYTHON, AS_ANOTHER, str(link)], capture_output=True, text=True, check=False, timeout=20)

    # As soon as it is seen who asks, or when it is read.
    assert done.stdout == "b''\n" or done.stderr.splitlines()[-1].startswith(("ConnectionResetError", "BrokenPipe"))
    assert states(tree)["web"] == "ready"


def test_the_supervisor_of_another_user_is_not_asked(tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    asked, answer = os.pipe()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / SOCKET))
        if (server_process := os.fork()) == 0:
            os.setuid(65533)
            server.listen(1)
            os.write(answer, b"1")
            server.accept()
            os._exit(0)
        os.read(asked, 1)
        try:
            with (
                asking_as(65534),
                pytest.raises(NoSupervisor, match="runs as user 65533; allowed: one that runs as user 65534"),
            ):
                Client(tmp_path)
        finally:
            os.kill(server_process, signal.SIGKILL)
            os.waitpid(server_process, 0)


@contextlib.contextmanager
def asking_as(user: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "getuid", lambda: user)
        yield


def test_busy_while_it_stops(supervise):
    tree = supervise([process("a", [*PYTHON, DEAF], shutdown_s="infinity")])
    tree.wait_for("deaf")
    tree.process.terminate()
    tree.wait_for("stopping")

    assert tree.ask("start", "a").returncode == 2
    assert "busy" in tree.ask("start", "a").stderr


@pytest.mark.parametrize("arguments", ["--watch", "", "--json"])
def test_a_reader_that_goes_away_is_no_error(tree, arguments):
    command = f"{ORCHESTRATOR} tree --state-dir {tree.state} {arguments} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=20)

    assert done.stderr == ""


def test_without_a_supervisor(tmp_path, tree):
    tree.stop()

    assert tree.ask().returncode == 4
