"""Real processes under the supervisor: started, restarted, stopped, and seen out with all that they leave."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.processes import is_gone
from tests.support.supervised import PYTHON, Site, process

#: Starts a child of its own, which says its process id.
WITH_CHILD = ["sh", "-c", "sleep 1000 & echo child $!; wait"]

#: The same, but in a session of its own.
ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    print("child", os.getpid(), flush=True)
    time.sleep(1000)
time.sleep({})
"""
WITH_ESCAPED = [*PYTHON, ESCAPE.format(1000)]
DAEMON = [*PYTHON, ESCAPE.format(0.2)]

#: In a session of its own, and with an environment that does not name the tree.
WITH_STRANGER = ["sh", "-c", "env -i setsid sh -c 'echo child $$$$; exec sleep 1000' & exec sleep 1000"]

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(1000)
"""


def pid_in(line: str) -> int:
    return int(line.rsplit(maxsplit=1)[1])


def test_children_start_in_order_and_stop_in_reverse(supervise):
    says = "trap 'echo bye; exit' TERM; echo up; while :; do sleep 1000 & wait; done"
    tree = supervise([process(name, ["sh", "-c", says], ready="none") for name in ("a", "b", "c")])
    # A shell that is ended before it has set its trap says nothing.
    for _ in range(3):
        tree.wait_for("| up")
    eventually(lambda: [row.get("pid") for row in tree.tree().values()].count(None) == 1)
    assert tree.stop() == 0

    byes = [line.split()[0] for line in tree.all_lines() if line.endswith("| bye")]
    assert byes == ["c", "b", "a"]
    assert tree.members() == []


@pytest.mark.parametrize(
    "command", [WITH_CHILD, WITH_ESCAPED, WITH_STRANGER], ids=["in its group", "in its own session", "unmarked"]
)
def test_what_a_killed_child_leaves_is_killed_before_it_is_restarted(supervise, command):
    tree = supervise([process("a", command)])
    grandchild = pid_in(tree.wait_for("| child"))
    child = tree.tree()["a"]["pid"]
    os.kill(child, signal.SIGKILL)
    tree.wait_for("| child")

    assert is_gone(grandchild)
    row = tree.tree()["a"]
    assert (row["state"], row["restarts"], row["last_end"]) == ("ready", 1, "SIGKILL")
    assert tree.stop() == 0
    assert tree.members() == []


def test_nothing_survives_the_supervisor_and_another_may_start_at_once(supervise):
    tree = supervise([process("a", WITH_CHILD), process("b", WITH_ESCAPED)])
    grandchildren = [pid_in(tree.wait_for("| child")) for _ in range(2)]
    tree.process.kill()
    tree.process.wait()
    again = supervise([process("a", WITH_CHILD)])
    again.wait_for("| child")

    eventually(lambda: all(is_gone(pid) for pid in grandchildren))
    assert again.stop() == 0


def test_the_end_of_a_tree_leaves_no_process_without_its_mark(supervise):
    tree = supervise([process("a", WITH_STRANGER), process("b")])
    stranger = pid_in(tree.wait_for("| child"))

    assert tree.stop() == 0
    assert is_gone(stranger)


def test_an_unmarked_process_of_one_child_survives_the_end_of_another(supervise):
    tree = supervise([process("a", WITH_STRANGER), process("b")])
    stranger = pid_in(tree.wait_for("| child"))
    eventually(lambda: tree.tree()["b"]["state"] == "ready")
    os.kill(tree.tree()["b"]["pid"], signal.SIGKILL)
    eventually(lambda: tree.tree()["b"]["restarts"] == 1 and tree.tree()["b"]["state"] == "ready")

    assert not is_gone(stranger)
    # A supervisor that is killed so soon would leave it.
    assert tree.stop() == 0
    assert is_gone(stranger)


@pytest.mark.slow
def test_an_unmarked_process_does_not_survive_a_killed_supervisor_that_has_run_for_a_while(supervise):
    tree = supervise([process("a", WITH_STRANGER)])
    stranger = pid_in(tree.wait_for("| child"))
    # It is looked for one second after the last start.
    threading.Event().wait(1.5)
    tree.process.kill()
    tree.process.wait()

    eventually(lambda: is_gone(stranger))


def test_leftovers_of_a_supervisor_that_was_killed_with_its_lifeline_are_killed_at_the_start(supervise):
    tree = supervise([process("b", WITH_ESCAPED)])
    escaped = pid_in(tree.wait_for("| child"))
    (lifeline,) = lifelines_of(tree)
    os.kill(lifeline, signal.SIGKILL)
    tree.process.kill()
    tree.process.wait()
    again = supervise([process("a")])
    again.wait_for("all are ready")

    assert is_gone(escaped)
    assert len(again.members()) == 1


def lifelines_of(tree) -> list[int]:
    """The child of the supervisor that runs no program of its own; none between its end and the start of the next."""
    children = [
        int(pid) for pid in Path(f"/proc/{tree.process.pid}/task/{tree.process.pid}/children").read_text().split()
    ]
    mine = tree.members()
    return [pid for pid in children if pid not in mine]


def test_a_killed_lifeline_is_replaced(supervise):
    tree = supervise([process("a", WITH_CHILD)])
    grandchild = pid_in(tree.wait_for("| child"))
    (first,) = lifelines_of(tree)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: set(lifelines_of(tree)) - {first})
    tree.process.kill()
    tree.process.wait()

    eventually(lambda: is_gone(grandchild))


def test_a_second_supervisor_is_refused_with_the_pid_of_the_first(supervise):
    tree = supervise([process("a")])
    tree.wait_for("all are ready")
    second = supervise([process("a")])

    assert second.process.wait(20) == 2
    assert f"a supervisor runs with it, process {tree.process.pid}" in "".join(second.all_lines())
    assert tree.tree()["a"]["state"] == "ready"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["/no/such/program"], "not started: No such file or directory: /no/such/program"),
        ([str(Path(__file__))], "not started: Permission denied"),
        (["sh", "-c", "echo last words; exit 126"], "exit code 126"),
        (["sh", "-c", "echo last words; exit 127"], "exit code 127"),
        (DAEMON, "ended while others of its processes ran on"),
    ],
    ids=["missing", "not executable", "126", "127", "daemon"],
)
def test_what_cannot_run_is_not_restarted(supervise, command, text):
    tree = supervise([process("a", command)])
    tree.wait_for(text)

    assert tree.process.wait(20) == 1
    assert "nothing is left to run" in "".join(tree.all_lines())
    assert tree.members() == []


def test_a_missing_directory_is_a_configuration_that_cannot_run(supervise):
    tree = supervise([process("a", directory="nowhere")])

    tree.wait_for("not started: No such file or directory")
    assert tree.process.wait(20) == 1


def test_a_child_that_dies_before_it_is_ready_is_counted(supervise):
    command = ["sh", "-c", "echo one; echo two; exit 3"]
    tree = supervise([process("a", command, ready="notify", backoff={"first_s": 0.01})], intensity=2)

    tree.wait_for("too many ends: 3 within 60 s; allowed: 2")
    assert tree.process.wait(20) == 1


def test_flood_half_characters_and_closed_output_block_nobody(supervise):
    flood = "import sys\nwhile True: sys.stdout.buffer.write(b'x' * 3000 + b'\\xc3\\n' * 1000)"
    closes = ["sh", "-c", "exec >&- 2>&-; exec sleep 1000"]
    tree = supervise([process("a", [*PYTHON, flood]), process("b"), process("c", closes)])
    tree.wait_for("| xxx")
    rows = tree.tree()

    assert (rows["b"]["state"], rows["c"]["state"]) == ("ready", "ready")
    # All of its output is read, although nobody reads that of the supervisor: half characters, too.
    eventually(lambda: "\N{REPLACEMENT CHARACTER}\n" in tree.ask("logs", "a", "--lines", "3").stdout)
    # Nobody reads its output any more, and it stops all the same.
    tree.process.terminate()
    assert tree.process.wait(20) == 0


#: Imported by Python before anything else: a supervisor in whose hurry nobody is killed.
PATIENT = "from orchestrator.core.supervision_tree import rule\nassert rule.HURRIED_S == 5.0\nrule.HURRIED_S = 3600.0\n"


def test_a_second_stop_hurries_and_a_third_one_kills(supervise, tmp_path):
    site = Site(tmp_path / "site", PATIENT)
    child = process("a", [*PYTHON, DEAF], shutdown_s="infinity")
    tree = supervise([child], environment={"PYTHONPATH": str(site.directory)})
    tree.wait_for("deaf")
    assert site.is_loaded_by(tree)
    tree.process.send_signal(signal.SIGINT)
    tree.wait_for("stopping")
    tree.process.send_signal(signal.SIGINT)
    tree.wait_for("stopping faster")
    tree.process.send_signal(signal.SIGINT)

    assert tree.process.wait(20) == 0
    assert tree.members() == []


def test_a_stopped_child_is_killed_after_its_time(supervise):
    tree = supervise([process("a", shutdown_s=0.3)])
    tree.wait_for("all are ready")
    os.kill(tree.tree()["a"]["pid"], signal.SIGSTOP)

    assert tree.stop() == 0
    assert tree.members() == []


def test_sigterm_is_for_the_main_process_and_its_group_is_killed_when_that_has_ended(supervise):
    below = "trap 'echo below' TERM; echo child $$$$; while :; do sleep 0.05; done"
    # It takes its time, in which another process that had been sent SIGTERM would say so.
    main = f"trap 'sleep 0.5; echo main; exit' TERM; sh -c \"{below}\" & wait"
    tree = supervise([process("a", ["sh", "-c", main])])
    child = pid_in(tree.wait_for("| child"))

    assert tree.stop() == 0
    assert [line.split("| ")[1] for line in tree.all_lines() if line.startswith("a ")] == ["main"]
    assert is_gone(child)


def test_orphans_are_reaped_by_the_first_process_of_a_container(supervise):
    # `sleep` outlives its parent for a moment, and ends as the supervisor's own child.
    command = ["sh", "-c", "(sleep 0.1 & echo orphan $!); exec sleep 1000"]
    tree = supervise([process("a", command)])
    orphan = pid_in(tree.wait_for("| orphan"))

    eventually(lambda: not Path(f"/proc/{orphan}").exists())
    assert tree.tree()["a"]["state"] == "ready"


def test_all_is_killed_when_standard_input_closes_of_one_that_a_program_has_started(supervise):
    tree = supervise([process("a", [*PYTHON, DEAF])])
    tree.wait_for("deaf")
    tree.process.stdin.close()

    assert tree.process.wait(20) == 0
    assert tree.members() == []


def test_it_uses_little_memory_and_no_processor_time_while_nothing_happens(supervise):
    tree = supervise([process(name) for name in "abcd"])
    tree.wait_for("all are ready")
    for _ in "abcd":
        tree.wait_for("| up")

    # It looks for escaped processes one second after its last start, and then hardly ever.
    eventually(lambda: has_slept(tree.process.pid))
    assert int(status_of(tree.process.pid)["VmRSS"].split()[0]) < 22 * 1024


def has_slept(pid: int) -> bool:
    """Whether a process has slept for half a second."""
    before = status_of(pid)
    threading.Event().wait(0.5)
    return int(status_of(pid)["voluntary_ctxt_switches"]) - int(before["voluntary_ctxt_switches"]) <= 2


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}
