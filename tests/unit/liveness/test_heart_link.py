"""A worker and its watchdog process: what is said to it arrives, and what goes wrong with it is logged."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from orchestrator.core.keys import Keys
from orchestrator.transport.liveness import heart_link
from orchestrator.transport.liveness.heart_link import HeartLink
from orchestrator.transport.options import Options
from tests.support.eventually import eventually
from tests.support.processes import shown

NAME = "w@host:1#1"


class FakeRedis:
    """Answers each command by its name, and keeps the commands."""

    def __init__(self, **replies: str) -> None:
        self.commands: SimpleQueue[list[str]] = SimpleQueue()
        self._replies = {"CLIENT": ":7", **replies}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock, sock.makefile("rb") as lines:
            while head := lines.readline():
                command = []
                for _ in range(int(head[1:])):
                    size = int(lines.readline()[1:])
                    command.append(lines.read(size + 2)[:-2].decode())
                self.commands.put(command)
                sock.sendall(self._replies.get(command[0], "+OK").encode() + b"\r\n")

    def close(self) -> None:
        self._listening.close()

    def connection(self, password: str = "") -> Any:
        """As much of redis-py's as the link looks at."""
        sock = SimpleNamespace(getpeername=lambda: ("127.0.0.1", self.port))
        return SimpleNamespace(db=0, _sock=sock, credential_provider=None, username=None, password=password)


@pytest.fixture
def servers() -> Iterator[Callable[..., FakeRedis]]:
    made: list[FakeRedis] = []

    def make(**replies: str) -> FakeRedis:
        made.append(FakeRedis(**replies))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeartLink]:
    monkeypatch.setattr(heart_link, "_AGAIN_AFTER_S", 0.0)
    made = HeartLink(Keys("orc"), Options(), NAME, None)
    yield made
    made.stop()


def watchdogs() -> list[psutil.Process]:
    """The watchdog processes that these tests have started here; an earlier test may have left another one."""
    children = psutil.Process().children()
    return [child for child in children if NAME in _words(child) and any(map(_is_heart, _words(child)))]


def _is_heart(word: str) -> bool:
    return word.endswith("heart.py")


def _words(process: psutil.Process) -> list[str]:
    try:
        return shown(process.pid, process.cmdline)
    except psutil.Error:
        return []


def fill(pipe: int) -> None:
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b'"."\n')


def test_it_connects_with_the_address_that_it_was_given(link: HeartLink, servers: Callable[..., FakeRedis]) -> None:
    server = servers()
    link.follow(server.connection("pw"), NAME, "run")
    assert server.commands.get(timeout=20) == ["AUTH", "pw"]


def test_a_new_address_arrives_though_the_pipe_was_full(link: HeartLink, servers: Callable[..., FakeRedis]) -> None:
    """Regression: what did not fit was taken as said."""
    old, new = servers(), servers()
    link.follow(old.connection(), NAME, "run")
    old.commands.get(timeout=20)
    (process,) = watchdogs()
    process.suspend()
    try:
        fill(link._pipe)
        link.follow(new.connection(), NAME, "run")
    finally:
        process.resume()

    def has_arrived() -> bool:
        link.report_alive()
        return not new.commands.empty()

    eventually(has_arrived, timeout_s=20)
    assert [one.pid for one in watchdogs()] == [process.pid]


def test_after_parting_nothing_starts_another_one(link: HeartLink, servers: Callable[..., FakeRedis]) -> None:
    """Regression: a heartbeat under way while the worker left failed, or wrote to a descriptor of somebody else."""
    server = servers()
    link.follow(server.connection(), NAME, "run")
    assert watchdogs()
    link.stop()
    link.report_alive()
    link.follow(server.connection(), NAME, "run")
    assert watchdogs() == []


def test_heartbeats_while_another_thread_parts_do_no_harm(servers: Callable[..., FakeRedis]) -> None:
    server = servers()
    for _ in range(10):
        link = HeartLink(Keys("orc"), Options(), NAME, None)
        link.follow(server.connection(), NAME, "run")
        parting = threading.Thread(target=link.stop)
        parting.start()
        while parting.is_alive():
            link.report_alive()
        parting.join()
        link.report_alive()
        assert watchdogs() == []


def test_a_process_that_has_its_id_by_chance_is_not_killed(
    link: HeartLink, servers: Callable[..., FakeRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    link.follow(servers().connection(), NAME, "run")
    (process,) = watchdogs()
    process.kill()
    # As by a library that waits for any child.
    os.waitpid(process.pid, 0)
    killed: list[int] = []
    kill = os.kill
    # Another one may have been started in its place by now, and is stopped.
    monkeypatch.setattr(os, "kill", lambda pid, by: killed.append(pid) if pid == process.pid else kill(pid, by))
    link.stop()
    assert killed == []


def test_one_that_keeps_ending_is_logged_and_started_again(
    link: HeartLink, servers: Callable[..., FakeRedis], caplog: pytest.LogCaptureFixture
) -> None:
    server = servers()
    link.follow(server.connection(), NAME, "run")
    (first,) = watchdogs()
    first.send_signal(signal.SIGKILL)

    def is_another() -> bool:
        link.report_alive()
        return any(one.pid != first.pid for one in watchdogs())

    eventually(is_another)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage() == f"watchdog process {first.pid} of {NAME} ended (signal 9); starting another"


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ({"AUTH": "-WRONGPASS invalid username-password pair"}, "Redis refuses AUTH (WRONGPASS)"),
        ({"EVAL": "-NOPERM this user has no permissions"}, "Redis refuses EVAL (NOPERM)"),
        ({"CLIENT": "-NOPERM this user has no permissions"}, "Redis refuses CLIENT (NOPERM)"),
    ],
)
def test_what_redis_refuses_to_it_is_logged_once(
    link: HeartLink,
    servers: Callable[..., FakeRedis],
    caplog: pytest.LogCaptureFixture,
    replies: dict[str, str],
    said: str,
) -> None:
    server = servers(**replies)
    link.follow(server.connection("pw"), NAME, "run")
    (refused,) = replies

    def is_logged() -> bool:
        link.report_alive()
        return said in caplog.text

    eventually(is_logged, timeout_s=20)
    # It has tried again since, and says no more.
    for _ in range(2):
        while server.commands.get(timeout=20)[0] != refused:
            pass
    link.report_alive()
    assert caplog.text.count(said) == 1
    assert "pw" not in caplog.text


def test_it_runs_where_spawning_cannot_start_a_session(
    link: HeartLink, servers: Callable[..., FakeRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = os.posix_spawn

    def old_spawn(*args: Any, **options: Any) -> int:
        if options.get("setsid"):
            raise NotImplementedError("The setsid option is not supported on this platform.")
        return spawn(*args, **options)

    monkeypatch.setattr(os, "posix_spawn", old_spawn)
    server = servers()
    link.follow(server.connection(), NAME, "run")
    server.commands.get(timeout=20)
    (process,) = watchdogs()
    assert os.getsid(process.pid) == process.pid


def test_that_none_can_be_started_is_logged_and_no_heartbeat_fails(
    link: HeartLink,
    servers: Callable[..., FakeRedis],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused(*_: Any, **__: Any) -> int:
        raise NotImplementedError("not here")

    monkeypatch.setattr(os, "posix_spawn", refused)
    link.follow(servers().connection(), NAME, "run")
    link.report_alive()
    assert caplog.text.count(f"watchdog process of {NAME} not started: not here") == 1
