"""`orchestrator tree restart` of a whole tree, and one that meets children on hold."""

from __future__ import annotations

from tests.support.eventually import eventually
from tests.support.supervised import PYTHON, process

FAILS = [*PYTHON, "import sys; sys.exit(3)"]


def test_a_restart_of_the_whole_tree_restarts_each_child_once(supervise):
    group = {"id": "agents", "children": [process("billing", replicas=2), process("mail")], "strategy": "rest_for_one"}
    tree = supervise([process("web"), group], intensity=9)
    tree.wait_for("all are ready")
    before = tree.tree()
    done = tree.ask("restart", "")

    assert (done.returncode, done.stderr) == (0, "")
    after = tree.tree()
    assert {row["state"] for row in after.values()} == {"ready"}
    assert {after[path]["run"] - row["run"] for path, row in before.items() if "run" in row} == {1}
    assert tree.process.poll() is None


def test_a_rolling_restart_ends_at_a_child_on_hold_and_says_so(supervise):
    """Regression: it waited there until its time-out, and the supervisor went on with it when the hold was over."""
    agents = {"id": "agents", "children": [process("good"), process("bad", FAILS)], "on_give_up": "hold"}
    tree = supervise([process("web"), {**agents, "intensity": 1, "hold_s": 3600}, process("api")], intensity=9)
    tree.wait_for("on hold")
    api = eventually(lambda: tree.tree()["api"]["pid"])
    done = tree.ask("restart", "--rolling")

    assert done.returncode == 1
    on_hold = "is not ready (on hold: orchestrator tree reset agents)"
    *_, good, bad, passed_over, total = done.stdout.splitlines()
    assert good.startswith(f"2 of 4: agents/good {on_hold}")
    assert bad.startswith(f"3 of 4: agents/bad {on_hold}")
    assert passed_over == "4 of 4: api was not restarted"
    assert total.startswith("1 of 4 restarted")
    assert tree.tree()["api"]["pid"] == api
