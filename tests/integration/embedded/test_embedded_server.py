"""The embedded server lives exactly as long as its owner: real servers, real SIGKILLs."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from redis import TimeoutError as RedisTimeoutError
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.retry import Retry

from orchestrator.embedded import EmbeddedServer, EmbeddedServerError, PortTakenError
from orchestrator.embedded import server as server_module
from orchestrator.embedded.guard import CONFIGURATION_FILE
from orchestrator.embedded.ports import free_port
from tests.support.eventually import eventually
from tests.support.processes import is_gone

OWNER = """
import json, os, signal, sys
from orchestrator.embedded import EmbeddedServer

server = EmbeddedServer(directory=sys.argv[2] if len(sys.argv) > 2 else None).start()
child_pid = None
if sys.argv[1] == "forks":
    child_pid = os.fork()
    if child_pid == 0:
        signal.pause()
print(json.dumps(dict(
    pid=server.pid, guard_pid=server.guard_pid, directory=str(server.directory), child_pid=child_pid,
)), flush=True)
if sys.argv[1] == "exits":
    sys.exit()
signal.pause()
"""


def connect(url: str, timeout_s: float = 20.0) -> "Redis":
    return Redis.from_url(url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0), decode_responses=True)


@contextmanager
def owner_process(*arguments: str):
    with subprocess.Popen([sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            yield owner, json.loads(owner.stdout.readline())
        finally:
            owner.kill()


def assert_nothing_left(server: dict) -> None:
    eventually(lambda: is_gone(server["pid"]))
    eventually(lambda: is_gone(server["guard_pid"]))
    assert not Path(server["directory"]).exists()


def test_stop_leaves_no_process_and_no_directory():
    with EmbeddedServer() as server:
        with connect(server.url) as client:
            assert client.ping()
        pid, guard_pid, directory = server.pid, server.guard_pid, server.directory
        assert directory.is_dir()
    assert is_gone(pid)
    assert is_gone(guard_pid)
    assert not directory.exists()
    assert not server.is_running
    server.stop()


def test_listens_on_loopback_only():
    with EmbeddedServer() as server:
        listening = [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", server.port)]


def test_nobody_gets_in_without_the_password_and_the_file_that_holds_it_is_the_owners():
    with EmbeddedServer() as server:
        with connect(f"redis://127.0.0.1:{server.port}/0") as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        assert (server.directory / CONFIGURATION_FILE).stat().st_mode & 0o777 == 0o600
        with connect(server.url) as client:
            assert client.config_get("requirepass")["requirepass"] in server.url


def test_without_a_password_nobody_can_write_files_as_the_owner(tmp_path):
    with EmbeddedServer(password="") as server, connect(server.url) as stranger:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert stranger.set("mail", "1")
        assert stranger.info("server")["tcp_port"] == server.port
        for command in (
            ("CONFIG", "SET", "dir", str(tmp_path)),
            ("SAVE",),
            ("BGSAVE",),
            ("BGREWRITEAOF",),
            ("MODULE", "LOAD", "x"),
            ("REPLICAOF", "127.0.0.1", "1"),
            ("DEBUG", "SEGFAULT"),
            ("ACL", "SETUSER", "default", "+@all"),
            ("SHUTDOWN",),
            ("EVAL", "return redis.call('config', 'set', 'dir', '/')", "0"),
        ):
            with pytest.raises(ResponseError):
                stranger.execute_command(*command)
        assert stranger.ping()


def test_the_foreground_server_may_do_without_a_password():
    with foreground("--no-password") as process:
        url = process.stdout.readline().strip()
        assert "@" not in url
        with connect(url) as client, pytest.raises(ResponseError):
            client.config_set("dir", "/")


def test_starts_again_after_stop():
    server = EmbeddedServer()
    with server:
        first_url = server.url
    with server, connect(server.url) as client:
        assert server.url == first_url
        assert client.ping()


def test_a_killed_owner_leaves_nothing_behind():
    with owner_process("waits") as (owner, server):
        owner.kill()
        assert_nothing_left(server)


def test_an_owner_that_forgets_to_stop_leaves_nothing_behind():
    with owner_process("exits") as (owner, server):
        assert owner.wait() == 0
        assert_nothing_left(server)


def test_a_forked_child_does_not_keep_a_killed_owners_server():
    with owner_process("forks") as (owner, server):
        try:
            owner.kill()
            assert_nothing_left(server)
            assert not is_gone(server["child_pid"])
        finally:
            os.kill(server["child_pid"], signal.SIGKILL)


def test_a_killed_owner_leaves_a_given_directory_alone(tmp_path):
    with owner_process("waits", str(tmp_path)) as (owner, server):
        owner.kill()
        eventually(lambda: is_gone(server["guard_pid"]))
    assert is_gone(server["pid"])
    assert Path(server["directory"]) == tmp_path
    assert tmp_path.is_dir()


def test_a_killed_owner_does_not_leave_a_paused_server():
    with EmbeddedServer() as server:
        pid = server.pid
        server.pause()
    assert is_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_guard_takes_the_server_with_it():
    server = EmbeddedServer().start()
    try:
        pid, directory = server.pid, server.directory
        os.kill(server.guard_pid, signal.SIGKILL)
        eventually(lambda: is_gone(pid))
        with pytest.raises(EmbeddedServerError, match="guard"):
            _ = server.pid
    finally:
        server.stop()
    assert not directory.exists()


def test_a_terminated_guard_cleans_up():
    with EmbeddedServer() as server:
        pid, guard_pid, directory = server.pid, server.guard_pid, server.directory
        os.kill(guard_pid, signal.SIGTERM)
        eventually(lambda: is_gone(guard_pid))
        assert is_gone(pid)
        assert not directory.exists()


def test_a_forked_child_may_neither_control_nor_stop_it():
    with EmbeddedServer() as server:
        child_pid = os.fork()
        if child_pid == 0:
            try:
                server.kill()
            except EmbeddedServerError:
                server.stop()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child_pid, 0)[1] == 0
        assert server.is_running


def test_kill_and_restart_keep_data_with_appendonly():
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        url, directory, pid = server.url, server.directory, server.pid
        with connect(url) as client:
            client.set("kept", "yes")
            server.kill()
            assert is_gone(pid)
            assert not server.is_running
            with pytest.raises(RedisConnectionError):
                client.ping()
            with pytest.raises(EmbeddedServerError, match="not running"):
                _ = server.pid
            server.restart()
            assert (server.url, server.directory) == (url, directory)
            assert server.pid != pid
            assert client.get("kept") == "yes"


def test_restart_of_a_running_server():
    with EmbeddedServer() as server:
        pid = server.pid
        server.restart()
        assert server.pid != pid
        assert is_gone(pid)


def test_pause_and_resume():
    with EmbeddedServer() as server, connect(server.url) as client, connect(server.url, 0.2) as hasty:
        assert client.ping()
        server.pause()
        assert server.is_running
        with pytest.raises(RedisTimeoutError):
            hasty.ping()
        server.resume()
        assert client.ping()


def test_data_in_a_given_directory_survive_stop(tmp_path):
    kept = {"directory": tmp_path / "deep er" / "data", "config": {"appendonly": "yes"}}
    with EmbeddedServer(**kept) as server, connect(server.url) as client:
        client.set("kept", "yes")
    with EmbeddedServer(**kept) as server, connect(server.url) as client:
        assert client.get("kept") == "yes"


def test_two_servers_at_once(redis_url):
    with EmbeddedServer() as other, connect(other.url) as there, connect(redis_url) as here:
        there.set("who", "other")
        assert other.url != redis_url
        assert here.get("who") is None


def test_a_taken_port_is_a_clear_error(redis_server):
    with pytest.raises(PortTakenError, match=f"127.0.0.1:{redis_server.port}: is another server running there"):
        EmbeddedServer(port=redis_server.port).start()


def test_a_chosen_port_that_is_snatched_away_is_replaced(redis_server, monkeypatch):
    free = free_port()
    choices = iter([redis_server.port, free])
    monkeypatch.setattr(server_module, "free_port", lambda: next(choices))
    with EmbeddedServer() as server:
        assert server.port == free


def test_a_bad_directive_is_reported_in_the_servers_words():
    with pytest.raises(EmbeddedServerError, match="no-such-directive"):
        EmbeddedServer(config={"no-such-directive": "1"}).start()


def test_starting_twice_is_an_error():
    with EmbeddedServer() as server, pytest.raises(EmbeddedServerError, match="running already"):
        server.start()


def test_nothing_works_before_start():
    server = EmbeddedServer()
    with pytest.raises(EmbeddedServerError, match="never started"):
        _ = server.url
    with pytest.raises(EmbeddedServerError, match="not started"):
        server.kill()


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_foreground_server_stops_on_signal(stop_signal):
    port = free_port()
    with foreground("--port", str(port), "--appendonly") as process:
        url = process.stdout.readline().strip()
        assert url.startswith("redis://:")
        assert url.endswith(f"@127.0.0.1:{port}/0")
        with connect(url) as client:
            pid = client.info("server")["process_id"]
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        process.send_signal(stop_signal)
        assert process.wait() == 0
    assert is_gone(pid)


def test_a_foreground_server_that_lingers_serves_on_until_its_last_client_has_left():
    with foreground("--linger-s", "30") as process:
        with connect(process.stdout.readline().strip()) as client:
            client.set("key", "not yet saved")
            process.send_signal(signal.SIGTERM)
            for _ in range(5):
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)
                assert client.get("key") == "not yet saved"
        assert process.wait(10) == 0


def test_a_second_signal_ends_the_lingering():
    with foreground("--linger-s", "30") as process, connect(process.stdout.readline().strip()) as client:
        client.ping()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("number", "status", "how"),
    [
        # The log says nothing of it.
        (signal.SIGKILL, -signal.SIGKILL, "(SIGKILL)\n"),
        (signal.SIGTERM, 1, "(exit code 0): "),
    ],
)
def test_foreground_server_ends_as_its_server_does(number, status, how):
    with foreground() as process:
        with connect(process.stdout.readline().strip()) as client:
            os.kill(client.info("server")["process_id"], number)
        assert process.wait() == status
        assert f"the embedded Redis server ended by itself {how}" in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "99999"), "port 99999"),
        (("--port", "-1"), "port -1"),
        (("--linger-s", "-1"), "allowed: seconds from 0 to 60"),
        (("--linger-s", "soon"), "invalid"),
    ],
)
def test_foreground_with_a_bad_argument_names_it(arguments, said):
    with foreground(*arguments) as process:
        assert process.wait() in (1, 2)
        assert said in process.stderr.read()


def test_foreground_on_a_taken_port_is_one_line_and_exit_code_1():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with foreground("--port", str(taken.getsockname()[1])) as process:
            assert process.wait() == 1
            assert process.stdout.read() == ""
            (line,) = process.stderr.read().splitlines()
    assert line.startswith("error: cannot listen on 127.0.0.1:")


@contextmanager
def foreground(*arguments: str):
    command = [sys.executable, "-m", "orchestrator.embedded", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
