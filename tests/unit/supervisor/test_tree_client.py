"""The `orchestrator tree` command and a supervisor that ends, or stops, while it answers; and odd waits."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.supervisor.operator import tree_command
from orchestrator.supervisor.operator.rolling_restart import Line, roll
from orchestrator.supervisor.state_directory import SOCKET

Serve = Callable[..., Path]

#: A tree whose only child never becomes ready.
STARTING = {"path": "a", "state": "starting", "kind": "worker", "run": 2, "pid": 7, "restarts": 0}
TREE: dict[str, Any] = {
    "pid": 1, "source": "orchestrator.toml", "directory": "/", "apps": [], "stopping": False, "rolling": ["a"],
    "children": [{"path": "", "state": "running", "kind": "supervisor", "restarts": 0}, STARTING],
}  # fmt: skip
ANSWERS = {"tree": TREE, "environment": {"environment": {}}, "restart": {"done": ["a"], "runs": {"a": 1}}}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves one client of a state directory; what it does with each request is handed in."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / SOCKET))
    server.listen(1)
    threads: list[threading.Thread] = []

    def serve(answer: Callable[[dict[str, Any]], bytes | None]) -> Path:
        def run() -> None:
            client, _ = server.accept()
            with client, client.makefile("rb") as requests:
                for line in requests:
                    if (bytes_out := answer(json.loads(line))) is None:
                        continue
                    client.sendall(bytes_out)
                    if not bytes_out.endswith(b"\n"):
                        return

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return tmp_path

    yield serve
    server.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def tree(directory: Path, *arguments: str) -> int:
    return tree_command.main(["--state-dir", str(directory), *arguments])


def answer(request: dict[str, Any]) -> bytes:
    return json.dumps(ANSWERS[request["operation"]]).encode() + b"\n"


def test_a_supervisor_that_is_killed_while_it_answers(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    directory = serve(lambda request: answer(request)[:40])
    assert tree(directory) == 4
    assert capsys.readouterr().err == "error: the supervisor has ended\n"


def test_a_supervisor_that_does_not_answer(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_command, "_ANSWER_S", 0.1)
    directory = serve(lambda _: None)
    assert tree(directory) == 4
    assert capsys.readouterr().err == "error: the supervisor does not answer within 0.1 s\n"


def _fill_the_queue(stack: contextlib.ExitStack, path: Path) -> int:
    """Connect until the server has to let one in first; returns how many are connected."""
    for count in range(100):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return count
    raise AssertionError("the queue has no end")


def test_a_supervisor_that_lets_nobody_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was said that none runs."""
    monkeypatch.setattr(tree_command, "_ANSWER_S", 0.1)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(tmp_path / SOCKET))
        server.listen(1)
        _fill_the_queue(stack, tmp_path / SOCKET)
        assert tree(tmp_path) == 4
    assert capsys.readouterr().err == "error: the supervisor does not answer within 0.1 s\n"


def test_a_supervisor_that_lets_others_in_first(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a command was turned away at once, while commands that hung were let in."""
    with contextlib.ExitStack() as stack:
        before = _fill_the_queue(stack, tmp_path / SOCKET)
        letting_in = threading.Timer(0.05, lambda: [serve(answer) for _ in range(before + 1)])
        letting_in.start()
        assert tree(tmp_path) == 0
        letting_in.join()
    assert "starting" in capsys.readouterr().out


def test_a_tree_whose_supervisor_hangs_has_not_ended(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_command, "_ANSWER_S", 0.1)
    directory = serve(lambda request: b'{"done": [""]}\n' if request["operation"] == "stop" else None)
    assert tree(directory, "stop", "") == 4
    assert capsys.readouterr().err == "error: the supervisor does not answer within 0.1 s\n"


def test_a_tree_has_ended_when_its_supervisor_has(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: where the last child ended a moment before, the command ended without a word."""
    children = [{**row, "state": "stopped", "pid": None} for row in TREE["children"]]
    stopped = json.dumps({**TREE, "children": children}).encode() + b"\n"
    answers = iter([b'{"done": [""]}\n', stopped, stopped])
    directory = serve(lambda _: next(answers, b"it ends in the middle of"))
    assert tree(directory, "stop", "") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the tree has ended"


@pytest.mark.parametrize("arguments", [("restart", "a"), ("restart", "--rolling", "a")], ids=["all at once", "rolling"])
def test_a_restart_is_waited_for_only_so_long(
    serve: Serve, capsys: pytest.CaptureFixture[str], arguments: Sequence[str]
) -> None:
    directory = serve(answer)
    assert tree(directory, *arguments, "--timeout-s", "0.1") == 1
    output = capsys.readouterr()
    assert "not ready: a" in output.out + output.err


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e999", "", "soon"])
def test_a_wait_that_is_no_time_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as end:
        tree(tmp_path, "restart", "a", f"--timeout-s={text}")
    assert end.value.code == 2
    assert f"--timeout-s: {text!r} is not allowed; allowed: seconds, 0 or more" in capsys.readouterr().err


def test_a_rolling_restart_that_has_no_end_names_what_is_left() -> None:
    said: list[Line] = []
    left = roll(lambda **_: TREE, said.append, {"a": 1}, timeout_s=0)
    assert left == ["a"]


def test_those_that_a_rolling_restart_did_not_get_to_are_not_said_to_be_restarted() -> None:
    """Regression: they run, so they were counted among those that were."""
    said: list[Line] = []
    rows = [{**STARTING, "state": "failed: config"}, {**STARTING, "path": "b", "state": "ready"}]
    left = roll(lambda **_: {**TREE, "children": rows, "rolling": []}, said.append, {"a": 1, "b": 2}, timeout_s=9)
    assert left == ["a", "b"]
    assert [(line.text, line.data["state"]) for line in said] == [
        ("1 of 2: a is not ready (failed: config) after 0.0 s", "failed: config"),
        ("2 of 2: b was not restarted", "not restarted"),
    ]


def test_a_rolling_restart_prints_lines_of_json(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    looks = iter([TREE, {**TREE, "children": [{**STARTING, "state": "stopping"}]}, TREE])
    end = {**TREE, "children": [{**STARTING, "state": "ready"}], "rolling": []}

    def rolled(request: dict[str, Any]) -> bytes:
        return json.dumps(next(looks, end)).encode() + b"\n" if request["operation"] == "tree" else answer(request)

    assert tree(serve(rolled), "restart", "--rolling", "a", "--json") == 0
    *steps, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(step["id"], step["state"], step["number"], step["of"]) for step in steps] == [
        ("a", "stopping", 1, 1), ("a", "starting", 1, 1), ("a", "ready", 1, 1),
    ]  # fmt: skip
    assert steps[-1]["after_s"] >= 0
    assert total == {"restarted": 1, "of": 1, "took_s": total["took_s"], "not_ready": []}
